#![doc = include_str!("../README.md")]

mod backoff;
pub mod blocking;
mod calls;
mod client;
mod endpoint;
mod error;
mod mdp;
mod meet;
mod message;
mod ppp;
mod stream;
mod tls;
mod wire;
mod worker;

pub use zmtp::{KeyPair, Limits, PublicKey, SecretKey};

pub use crate::calls::BrokerStatus;
pub use crate::client::{Call, Client, ClientBuilder, Replies};
pub use crate::error::{Error, Refusal};
pub use crate::mdp::Protocol;
pub use crate::meet::{Acquire, Ask, Lock, MatchLine, Met, Regulator};
pub use crate::message::Message;
pub use crate::worker::{Request, Worker, WorkerBuilder, WorkerStatus};
