//! Tests: transcripts of whole stories, and chance against recounts and models.

mod chance;

mod stats;

mod transcript;

mod wheel;
