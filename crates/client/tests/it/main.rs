//! The library against a broker that does exactly what a test tells it to, over loopback TCP.

mod blocking;
mod client;
mod fake;
mod meet;
mod worker;
