//! What holds for all bytes and all cuts.

use proptest::prelude::*;

use super::*;

/// What a peer may do once it is through.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Message(Vec<Vec<u8>>),
    /// As `Message`, with a PING before its last frame.
    Interrupted(Vec<Vec<u8>>),
    Ping(u16, Vec<u8>),
    Unknown(Vec<u8>),
}

impl Act {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        match self {
            Act::Message(frames) | Act::Interrupted(frames) => {
                let last = frames.len() - 1;
                for (i, frame) in frames.iter().enumerate() {
                    if i == last && matches!(self, Act::Interrupted(_)) {
                        put_ping(out, 5, b"mid");
                    }
                    put_frame(out, i < last, frame);
                }
            }
            Act::Ping(ttl, context) => put_ping(out, *ttl, context),
            Act::Unknown(data) => out.extend(command(&[b"\x04SING", &data[..]].concat())),
        }
    }

    /// What the other side hears, and answers.
    fn heard(&self, items: &mut Vec<Item>, answers: &mut Vec<u8>) {
        if let Act::Interrupted(_) = self {
            items.push(Item::Event(Event::Ping { ttl_deciseconds: 5 }));
            answers.extend(command(b"\x04PONGmid"));
        }
        match self {
            Act::Message(frames) | Act::Interrupted(frames) => {
                items.push(Item::Message(frames.clone()));
            }
            Act::Ping(ttl_deciseconds, context) => {
                items.push(Item::Event(Event::Ping { ttl_deciseconds: *ttl_deciseconds }));
                answers.extend(command(&[b"\x04PONG", &context[..]].concat()));
            }
            Act::Unknown(_) => {}
        }
    }
}

pub(super) fn act() -> impl Strategy<Value = Act> {
    let frame = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..20),
        1 => prop::collection::vec(any::<u8>(), 250..600),
    ];
    let message = prop::collection::vec(frame, 1..6);
    prop_oneof![
        6 => message.clone().prop_map(Act::Message),
        2 => message.prop_map(Act::Interrupted),
        1 => (any::<u16>(), prop::collection::vec(any::<u8>(), 0..=16))
            .prop_map(|(ttl, context)| Act::Ping(ttl, context)),
        1 => prop::collection::vec(any::<u8>(), 0..30).prop_map(Act::Unknown),
    ]
}

/// Sorted places to cut `len` octets at.
fn cuts(fractions: &[u16], len: usize) -> Vec<usize> {
    let mut cuts: Vec<_> = fractions.iter().map(|&f| usize::from(f) * len / 65_535).collect();
    cuts.sort_unstable();
    cuts
}

/// Bytes that get further than noise does: fragments of good traffic, in any order.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let fragment = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..12),
        2 => prop::collection::vec(0..8_u8, 0..12),
        1 => Just(GREETING.to_vec()),
        1 => Just(DEALER_READY.to_vec()),
        1 => Just(b"\x04\x08\x04PING\0\x01z".to_vec()),
        1 => Just(b"\x01\x01a\x00\x01b".to_vec()),
        1 => Just(b"\x03\0\0\0\0\0\0\0\x02ab".to_vec()),
    ];
    (0..3, prop::collection::vec(fragment, 0..12)).prop_map(|(through, fragments)| {
        let opening: &[&[u8]] = match through {
            0 => &[],
            1 => &[&GREETING],
            _ => &[&GREETING, DEALER_READY],
        };
        [opening.concat(), fragments.concat()].concat()
    })
}

proptest! {
    #[test]
    fn what_is_sent_is_heard_however_it_is_cut(
        acts in prop::collection::vec(act(), 0..12),
        fractions in prop::collection::vec(any::<u16>(), 0..8),
    ) {
        let mut bytes = [&GREETING[..], DEALER_READY].concat();
        let mut items = vec![Item::Event(Event::Ready)];
        let mut out = ROUTER_READY.to_vec();
        for act in &acts {
            act.put(&mut bytes);
            act.heard(&mut items, &mut out);
        }
        let peer = (1, Some(SocketType::Dealer), vec![]);
        let expected = Heard { items, out, left: vec![], peer };
        let config = Config::new(SocketType::Router);
        prop_assert_eq!(&hear(&config, &bytes, cuts(&fractions, bytes.len())), &expected);
        prop_assert_eq!(&hear(&config, &bytes, 0..bytes.len()), &expected);
    }

    #[test]
    fn no_bytes_do_harm(
        bytes in hostile(),
        fractions in prop::collection::vec(any::<u16>(), 0..4),
    ) {
        let mut config = Config::new(SocketType::Router);
        config.limits = Limits {
            frame_bytes_max: 1_000,
            frames_max: 4,
            message_bytes_max: 2_000,
            command_bytes_max: 300,
        };
        let whole = hear(&config, &bytes, []);
        prop_assert_eq!(&hear(&config, &bytes, 0..bytes.len()), &whole);
        prop_assert_eq!(&hear(&config, &bytes, cuts(&fractions, bytes.len())), &whole);
        // An answer is a PONG, no longer than its PING, or one last ERROR.
        prop_assert!(whole.out.len() <= ROUTER_READY.len() + bytes.len() + 40);
    }

    #[test]
    fn two_connections_talk(
        identity in prop::collection::vec(1..=u8::MAX, 0..20),
        there in prop::collection::vec(act(), 0..6),
        back in prop::collection::vec(act(), 0..6),
        fractions in prop::collection::vec(any::<u16>(), 0..6),
    ) {
        let router = Config::new(SocketType::Router);
        let mut dealer = Config::new(SocketType::Dealer);
        dealer.identity = Some(identity.clone().into_boxed_slice());
        let [mut from_dealer, mut from_router] = [opening(&dealer), opening(&router)];
        let [mut at_router, mut at_dealer] = [(); 2].map(|()| vec![Item::Event(Event::Ready)]);
        for act in &there {
            act.put(&mut from_dealer);
            act.heard(&mut at_router, &mut Vec::new());
        }
        for act in &back {
            act.put(&mut from_router);
            act.heard(&mut at_dealer, &mut Vec::new());
        }

        let heard = hear(&router, &from_dealer, cuts(&fractions, from_dealer.len()));
        prop_assert_eq!(heard.items, at_router);
        prop_assert_eq!(heard.peer, (1, Some(SocketType::Dealer), identity));
        let heard = hear(&dealer, &from_router, cuts(&fractions, from_router.len()));
        prop_assert_eq!(heard.items, at_dealer);
        prop_assert_eq!(heard.peer, (1, Some(SocketType::Router), vec![]));
    }

    #[test]
    fn raw_bytes_are_frames_and_can_be_joined(
        first in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..5),
        second in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..5),
    ) {
        let [mut raw, mut tail] = [Vec::new(), Vec::new()];
        Act::Message(first.clone()).put(&mut raw);
        Act::Message(second.clone()).put(&mut tail);
        set_more_on_last(&mut raw);
        raw.extend(tail);
        let frames = [first, second].concat();
        let read: Vec<_> = raw_frames(&raw).map(|(_, payload)| payload.to_vec()).collect();
        let last = frames.len() - 1;
        prop_assert_eq!(read, frames);
        prop_assert!(raw_frames(&raw).enumerate().all(|(i, (more, _))| more == (i < last)));
    }
}

/// What a side that was greeted has written.
fn opening(config: &Config) -> Vec<u8> {
    let mut out = Vec::new();
    let mut connection = Connection::new(config, &mut out);
    let step = connection.next(config, &mut GREETING.clone(), &mut Frames::default(), &mut out);
    assert_eq!(step, Ok(Step::Skip { len: 64, event: None }));
    out
}
