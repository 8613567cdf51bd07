//! The case table: bytes, and all that comes of them.

use super::*;

#[test]
fn a_dealer_shakes_hands_and_sends_a_message() {
    let router = Config::new(SocketType::Router);
    let mut bytes = Vec::new();
    Connection::new(&Config::new(SocketType::Dealer), &mut bytes);
    put_command(
        &mut bytes,
        b"READY",
        &[b"\x0bSocket-Type\0\0\0\x06DEALER\x08identity\0\0\0\x02me"],
    );
    put_frame(&mut bytes, true, b"");
    put_ping(&mut bytes, 30, b"ctx");
    put_frame(&mut bytes, false, &[7; 300]);
    let heard = hear(&router, &bytes, []);
    assert_eq!(
        heard.items,
        [
            Item::Event(Event::Ready),
            Item::Event(Event::Ping { ttl_deciseconds: 30 }),
            Item::Message(vec![vec![], vec![7; 300]]),
        ]
    );
    assert!(heard.out.ends_with(b"\x04\x08\x04PONGctx"));
    assert_eq!(heard, hear(&router, &bytes, 0..bytes.len()));
}
