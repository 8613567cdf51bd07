//! Tests: transcripts of whole stories, and chance against recounts and models.

mod chance;
mod guard;

mod meetings;

mod stats;

mod transcript;

mod wheel;
