//! An outbox against a plain vector of bytes.

use std::vec;
use std::vec::Vec;

use bytes::Bytes;
use engine::Blob;
use proptest::prelude::*;

use crate::{LARGE_BODY, Outbox};

#[derive(Clone, Debug)]
enum Call {
    /// So many bytes, by copy.
    Small(usize),
    /// So many bytes, given as something shared, from some place in it.
    Shared(usize, usize),
    /// A share of 256 of what waits is written.
    Advance(usize),
    /// All of it is, and the buffer is given back and lent again.
    Drain,
}

fn any_call() -> impl Strategy<Value = Call> {
    let border = LARGE_BODY - 2..LARGE_BODY + 2;
    prop_oneof![
        4 => (0usize..600).prop_map(Call::Small),
        1 => (30_000usize..70_000).prop_map(Call::Small),
        3 => (border, 0usize..3).prop_map(|(len, from)| Call::Shared(len, from)),
        2 => (0usize..60_000, 0usize..3).prop_map(|(len, from)| Call::Shared(len.max(from), from)),
        6 => (0usize..257).prop_map(Call::Advance),
        1 => Just(Call::Drain),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(300)
    })]

    #[test]
    fn what_is_written_is_what_was_put_in(calls in prop::collection::vec(any_call(), 0..50)) {
        let (mut outbox, mut model, mut seed) = (Outbox::default(), Vec::<u8>::new(), 0u32);
        for call in calls {
            match call {
                Call::Small(len) => {
                    let bytes = bytes(&mut seed, len);
                    outbox.push_blob(&Blob::Slice(&bytes));
                    model.extend_from_slice(&bytes);
                }
                Call::Shared(len, from) => {
                    let bytes = Bytes::from(bytes(&mut seed, len));
                    outbox.push_shared(&bytes, from);
                    model.extend_from_slice(&bytes[from..]);
                }
                Call::Advance(share) => {
                    let n = model.len() * share / 256;
                    outbox.advance(n);
                    model.drain(..n);
                }
                Call::Drain => {
                    outbox.advance(model.len());
                    model.clear();
                    let buffer = outbox.take_buffer().unwrap_or_default();
                    assert!(outbox.take_buffer().is_none());
                    outbox.lend(buffer);
                }
            }
            compare(&outbox, &model);
        }
    }
}

#[test]
fn a_large_piece_is_not_copied() {
    let mut outbox = Outbox::default();
    let body = Bytes::from(vec![7; LARGE_BODY]);
    outbox.small().extend_from_slice(b"head");
    outbox.push_blob(&Blob::Shared(body.clone()));
    outbox.small().extend_from_slice(b"next");
    let mut pieces: [&[u8]; 8] = [&[]; 8];
    assert_eq!(outbox.pieces(&mut pieces), 3);
    assert_eq!((pieces[0], pieces[2]), (&b"head"[..], &b"next"[..]));
    assert_eq!(pieces[1].as_ptr(), body.as_ptr());
    // Few places for pieces: the first ones.
    let mut two: [&[u8]; 2] = [&[]; 2];
    assert_eq!(outbox.pieces(&mut two), 2);
    assert_eq!(two[1].len(), LARGE_BODY);
    outbox.advance(5);
    assert!(outbox.take_buffer().is_none(), "something waits");
    outbox.advance(LARGE_BODY + 3);
    assert!(outbox.is_empty() && outbox.take_buffer().is_some());
}

fn compare(outbox: &Outbox, model: &[u8]) {
    assert_eq!(outbox.len(), model.len());
    assert_eq!(outbox.is_empty(), model.is_empty());
    let mut pieces: [&[u8]; 64] = [&[]; 64];
    let count = outbox.pieces(&mut pieces);
    assert!(pieces[..count].iter().all(|piece| !piece.is_empty()));
    let written = pieces[..count].concat();
    assert!(count == 64 || written.len() == model.len());
    assert!(model.starts_with(&written), "other bytes");
}

/// Bytes that differ from place to place.
fn bytes(seed: &mut u32, len: usize) -> Vec<u8> {
    let next = |_| {
        *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*seed >> 24) as u8
    };
    (0..len).map(next).collect()
}
