//! The words of `maitred.match` and `maitred.regulator`: one frame each, numbers in decimal
//! digits, spans in microseconds.
//!
//! ```text
//!   ask NAME VALUE [label=L] [timeout=US]     acquire NAME [label=L] [timeout=US]
//!   try_ask NAME VALUE                        try_acquire NAME
//!   cancel NAME LABEL, len NAME               continue NAME LOCK, done NAME LOCK [ok|failed]
//!   declare NAME RULES, remove NAME           update NAME US
//!   list [NAME]
//! ```

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use engine::{Blob, Meet, MeetWord, Met, Place, PlaceRules, Side, Span, Wish};

/// Reads the rules of a place as they are written, its name and their text; an error says what is
/// wrong and what is accepted. Rules are written as in the configuration, which sessions know
/// nothing of: whoever builds a shard brings it.
pub type ReadRules = fn(Place, &[u8], &[u8]) -> Result<PlaceRules, String>;

/// What a shard knows that was given none.
pub(crate) fn no_rules(_: Place, _: &[u8], _: &[u8]) -> Result<PlaceRules, String> {
    Err("places are not declared here".into())
}

/// A word may have as many frames as this; the longest that makes sense has one less.
pub(crate) const FRAMES_MAX: usize = 6;

/// Octets of a label.
const LABEL_MAX: usize = 255;

/// First frame of the answer to a word that makes no sense; the second says why.
pub(crate) const BAD_REQUEST: &[u8] = b"bad_request";

/// Reads the body of a request.
///
/// # Errors
/// Says what is wrong with it and what is accepted.
pub(crate) fn read<'a>(
    place: Place,
    frames: &[&'a [u8]],
    read_rules: ReadRules,
) -> Result<Meet<'a>, Cow<'static, str>> {
    let (word, name, rest) = match frames {
        [b"list"] => (&b"list"[..], &b""[..], &[][..]),
        [word, name, rest @ ..] => (*word, *name, rest),
        [] | [_] => {
            let expected = "expected a word, the name of the place and arguments, one frame each";
            return Err(expected.into());
        }
    };
    let word = match word {
        b"declare" => match rest {
            [rules] => MeetWord::Declare(Box::new(read_rules(place, name, rules)?)),
            _ => return Err("declare takes the name of the place and its rules, one frame".into()),
        },
        b"remove" if rest.is_empty() => MeetWord::Remove,
        b"remove" => return Err("remove takes nothing but the name of the place".into()),
        b"list" if rest.is_empty() => MeetWord::List,
        b"list" => return Err("list takes nothing but the name to go on behind".into()),
        word => said(place, word, rest)?,
    };
    Ok(Meet { place, name: Blob::Slice(name), word })
}

/// What is said by and about those who meet.
fn said<'a>(place: Place, word: &[u8], rest: &[&'a [u8]]) -> Result<MeetWord<'a>, &'static str> {
    Ok(match (place, word) {
        (Place::Match, b"ask") => ask(Side::Ask, rest)?,
        (Place::Match, b"ask_r") => ask(Side::AskR, rest)?,
        (Place::Match, b"try_ask") => try_ask(Side::Ask, rest)?,
        (Place::Match, b"try_ask_r") => try_ask(Side::AskR, rest)?,
        (Place::Regulator, b"acquire") => MeetWord::Ask(Side::Ask, wish(b"", rest, true)?),
        (Place::Regulator, b"try_acquire") => match rest {
            [] => MeetWord::Ask(Side::Ask, wish(b"", &[], false)?),
            _ => return Err("try_acquire takes nothing but the name of the regulator"),
        },
        (_, b"cancel") => match rest {
            [label] if !label.is_empty() => MeetWord::Cancel(Blob::Slice(label)),
            _ => return Err("cancel takes the name of the place and one label"),
        },
        (_, b"len") if rest.is_empty() => MeetWord::Len,
        (_, b"len") => return Err("len takes nothing but the name of the place"),
        (Place::Regulator, b"continue") => match rest {
            [name] => MeetWord::Continue(lock(name)?),
            _ => return Err("continue takes the name of the regulator and of the lock"),
        },
        (Place::Regulator, b"done") => match rest {
            [name] | [name, b"ok"] => MeetWord::Done(lock(name)?, true),
            [name, b"failed"] => MeetWord::Done(lock(name)?, false),
            _ => return Err("done takes the names of regulator and lock, then ok or failed"),
        },
        (Place::Regulator, b"update") => match rest {
            [micros] => MeetWord::Update(span(micros)?),
            _ => return Err("update takes the name of the regulator and microseconds"),
        },
        (Place::Match, _) => {
            return Err("unknown word: expected ask, ask_r, try_ask, try_ask_r, cancel, len, \
                        declare, remove or list");
        }
        (Place::Regulator, _) => {
            return Err("unknown word: expected acquire, try_acquire, continue, done, update, \
                        cancel, len, declare, remove or list");
        }
    })
}

fn ask<'a>(side: Side, rest: &[&'a [u8]]) -> Result<MeetWord<'a>, &'static str> {
    match rest {
        [value, options @ ..] => Ok(MeetWord::Ask(side, wish(value, options, true)?)),
        [] => Err("expected the value for the other side behind the name, one frame"),
    }
}

fn try_ask<'a>(side: Side, rest: &[&'a [u8]]) -> Result<MeetWord<'a>, &'static str> {
    match rest {
        [value] => Ok(MeetWord::Ask(side, wish(value, &[], false)?)),
        _ => Err("expected nothing but the value for the other side behind the name, one frame"),
    }
}

fn wish<'a>(value: &'a [u8], options: &[&'a [u8]], waits: bool) -> Result<Wish<'a>, &'static str> {
    if options.len() > 2 {
        return Err("too many frames: expected at most one label and one timeout");
    }
    let (mut name, mut timeout) = (&b""[..], Span::MAX);
    for option in options {
        if let Some(label) = option.strip_prefix(b"label=") {
            if label.is_empty() || label.len() > LABEL_MAX {
                return Err("a label has from 1 to 255 octets");
            }
            name = label;
        } else if let Some(micros) = option.strip_prefix(b"timeout=") {
            timeout = span(micros)?;
        } else {
            return Err("unknown option: expected label=NAME or timeout=MICROSECONDS");
        }
    }
    Ok(Wish { value: Blob::Slice(value), label: Blob::Slice(name), timeout, waits })
}

fn lock(digits: &[u8]) -> Result<u64, &'static str> {
    let lock = core::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    lock.ok_or("the name of a lock is the number that came with it")
}

/// Microseconds, of which there is room for a year.
fn span(digits: &[u8]) -> Result<Span, &'static str> {
    const YEAR: u64 = 366 * 86_400 * 1_000_000;
    let micros = core::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u64>().ok());
    let micros = micros.filter(|micros| *micros <= YEAR);
    let micros = micros.ok_or("expected whole microseconds, at most a year")?;
    Ok(Span::from_nanos(micros as i64 * 1_000))
}

/// Hands the frames of an answer to `f`.
pub(crate) fn with_frames(answer: &Met<'_>, mut f: impl FnMut(&[&[u8]])) {
    let micros = |span: &Span| (span.as_nanos() / 1_000).to_string();
    let mut with = |word: &'static str, rest: &[String]| {
        let frames = core::iter::once(word.as_bytes()).chain(rest.iter().map(String::as_bytes));
        let frames: Vec<&[u8]> = frames.collect();
        f(&frames);
    };
    match answer {
        Met::Go { value, relative, sojourn } => {
            let (relative, sojourn) = (micros(relative), micros(sojourn));
            f(&[b"go", value.as_slice(), relative.as_bytes(), sojourn.as_bytes()]);
        }
        Met::Run { lock, relative, sojourn } => {
            with("go", &[lock.to_string(), micros(relative), micros(sojourn)]);
        }
        Met::Drop { reason, sojourn } => {
            f(&[b"drop", reason.as_str().as_bytes(), micros(sojourn).as_bytes()]);
        }
        Met::Retry => with("retry", &[]),
        Met::Cancelled => with("cancelled", &[]),
        Met::Number(n) => with("number", &[n.to_string()]),
        Met::Len(a, b) => with("number", &[a.to_string(), b.to_string()]),
        Met::Done => with("done", &[]),
        Met::Stop => with("stop", &[]),
        Met::Names(names) => {
            let frames: Vec<&[u8]> =
                core::iter::once(&b"names"[..]).chain(names.iter().map(|name| &**name)).collect();
            f(&frames);
        }
        Met::NoPlace => f(&[b"not_found", b"name"]),
        Met::NoLock => f(&[b"not_found", b"lock"]),
    }
}
