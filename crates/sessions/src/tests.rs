//! Tests: transcripts of whole conversations, tables of words, and chance.

mod house;

mod peer;

mod transcript;

mod mdp;

mod ppp;

mod outbox;

mod secure;

mod stomp;

mod stomp_chance;
