//! Every bound, from both sides: what just fits is taken, one octet more is refused, and nothing
//! larger than the bound is ever waited for.

use super::*;
use Version::V1_2;

const TIGHT: Limits =
    Limits { headers_max: 2, head_bytes_max: 40, body_bytes_max: 8, opening_bytes_max: 60 };

#[track_caller]
fn tight(bytes: &[u8]) -> Heard {
    let config = Config { limits: TIGHT, ..Config::new(Role::Server) };
    at_with(&config, V1_2, bytes)
}

#[test]
fn what_just_fits_is_taken() {
    assert_eq!(tight(b"SEND\na:1\nb:2\n\n12345678\0").body(), b"12345678");
    assert_eq!(tight(b"SEND\ncontent-length:8\n\n\0\0\0\0\0\0\0\0\0").body(), [0; 8]);
    let head = b"SEND\nabcdefghijklmno:qrstuvwxyz0123456\n\n";
    assert_eq!(head.len(), 40);
    assert_eq!(tight(&[&head[..], b"\0"].concat()).refused, None);
}

#[test]
fn one_more_is_refused() {
    assert_eq!(tight(b"SEND\na:1\nb:2\nc:3\n\n\0").kind(), "too_many_headers");
    assert_eq!(tight(b"SEND\n\n123456789").kind(), "body_too_large");
    assert_eq!(tight(b"SEND\ncontent-length:9\n\n").kind(), "body_too_large");
    assert_eq!(tight(b"SEND\nabcdefghijklmno:qrstuvwxyz01234567\n\n\0").kind(), "head_too_large");
}

#[test]
fn an_unfinished_line_counts_before_it_ends() {
    assert_eq!(tight(b"SEND\na:1\nb:2\nc").kind(), "too_many_headers");
    assert_eq!(tight(&[b"SEND\n", &[b'x'; 35][..]].concat()).kind(), "head_too_large");
}

#[test]
fn of_two_bounds_the_same_is_met_first_however_it_is_cut() {
    let full = b"SEND\na:0123456789012345\nb:0123456789012\n";
    assert_eq!(full.len(), 40);
    assert_eq!(tight(&[&full[..], b"c:1\n\n\0"].concat()).kind(), "head_too_large");
    let almost = &full[..full.len() - 2];
    assert_eq!(tight(&[almost, b"\nc:1\n\n\0"].concat()).kind(), "too_many_headers");
}

#[test]
fn no_more_is_asked_for_than_the_limits_allow() {
    let config = Config { limits: TIGHT, ..Config::new(Role::Server) };
    let (mut head, mut out) = (Head::default(), Vec::new());
    let mut connection = Connection::server();
    let opening = b"CONNECT\ncontent-length:9\n\n";
    let step = connection.next(&config, opening, &mut head, &mut out);
    assert_eq!(step.map_err(|error| error.kind()), Err("opening_too_large"));

    let mut connection = Connection::server();
    let connect = b"CONNECT\naccept-version:1.2\n\n\0";
    connection.next(&config, connect, &mut head, &mut out).unwrap();
    connection.accept(&[], &mut out).unwrap();
    let sized = b"SEND\ncontent-length:8\n\n";
    let step = connection.next(&config, sized, &mut head, &mut out);
    assert_eq!(step, Ok(Step::More { need: sized.len() + 9 }));
}

#[test]
fn an_opening_counts_with_its_body() {
    let config = Config { limits: TIGHT, ..Config::new(Role::Server) };
    let fits = b"CONNECT\naccept-version:1.2\n\n";
    let body = [b'x'; 32];
    let hear = |body: &[u8]| check(&config, &[fits, body, b"\0"].concat());
    assert_eq!(hear(&body[..8]).refused, None);
    let large = Limits { body_bytes_max: 1000, ..TIGHT };
    let config = Config { limits: large, ..Config::new(Role::Server) };
    let hear = |body: &[u8]| check(&config, &[fits, body, b"\0"].concat());
    assert_eq!(fits.len() + body.len(), 60);
    assert_eq!(hear(&body).refused, None);
    assert_eq!(hear(&[b'x'; 33]).kind(), "opening_too_large");
}
