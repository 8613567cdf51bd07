//! Checkers of what clients and workers see: every request ends exactly once, with its own answer.

use std::collections::BTreeMap;

use super::words::{ClientReply, Frames};
use crate::Violation;
use crate::rng::Rng;

/// Stands for a caller inside the process, in place of a link.
pub(crate) const LOCAL: usize = usize::MAX;

/// How a request ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    Open,
    Answered,
    Refused,
    /// Its client's connection ended.
    Withdrawn,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) link: usize,
    pub(crate) service: usize,
    envelope: Frames,
    named: Option<Vec<u8>>,
    partials: bool,
    pub(crate) end: End,
    deliveries: u32,
    /// The job whose parts come in, and how many came.
    parts: Option<(u64, u32)>,
}

/// What a worker does for one delivery of a request.
#[derive(Clone, Copy, Debug)]
struct Job {
    request: u64,
    /// Another worker's answer to a request it was never given.
    forged: bool,
}

#[derive(Debug)]
pub(crate) struct Ledger {
    seed: u64,
    /// Some bodies are large.
    large: bool,
    pub(crate) entries: BTreeMap<u64, Entry>,
    jobs: BTreeMap<u64, Job>,
    next: u64,
    /// Most deliveries any rules allowed, by service.
    pub(crate) deliveries_max: Vec<u32>,
    /// Requests refused by a reply that does not say which: their clients pipeline without a stack.
    pub(crate) refused_unnamed: u64,
    pub(crate) answered: u64,
    pub(crate) refused: u64,
}

impl Ledger {
    pub(crate) fn new(seed: u64, large: bool, services: usize) -> Ledger {
        Ledger {
            seed,
            large,
            entries: BTreeMap::new(),
            jobs: BTreeMap::new(),
            next: 0,
            deliveries_max: vec![0; services],
            refused_unnamed: 0,
            answered: 0,
            refused: 0,
        }
    }

    /// The number of the next request.
    pub(crate) fn upcoming(&self) -> u64 {
        self.next + 1
    }

    /// A request is made. `partials`: its client takes partial replies. `named`: the service its
    /// replies must name, if they name any.
    pub(crate) fn open(
        &mut self,
        link: usize,
        service: usize,
        envelope: Frames,
        named: Option<Vec<u8>>,
        partials: bool,
    ) -> Frames {
        self.next += 1;
        let entry = Entry {
            link,
            service,
            envelope,
            named,
            partials,
            end: End::Open,
            deliveries: 0,
            parts: None,
        };
        self.entries.insert(self.next, entry);
        self.body(self.next)
    }

    /// The connection of a client ended.
    pub(crate) fn withdraw(&mut self, link: usize) {
        for entry in self.entries.values_mut().filter(|entry| entry.link == link) {
            if entry.end == End::Open {
                entry.end = End::Withdrawn;
            }
        }
    }

    /// A caller inside the process gave up.
    pub(crate) fn withdraw_one(&mut self, request: u64) {
        if let Some(entry) = self.entries.get_mut(&request) {
            entry.end = End::Withdrawn;
        }
    }

    /// A worker was given a body. `None` if no client of ours made it.
    pub(crate) fn deliver(
        &mut self,
        service: usize,
        body: &Frames,
    ) -> Result<Option<u64>, Violation> {
        let Some([request]) = numbers(b"q", &body[0]) else { return Ok(None) };
        let must = self.body(request);
        let Some(entry) = self.entries.get_mut(&request) else { return Ok(None) };
        if entry.service != service {
            let text = format!("request {request} came to a worker of service {service}");
            return Err(Violation::new("own service", text));
        }
        if *body != must {
            let text = format!("request {request} came to its worker with another body");
            return Err(Violation::new("bodies", text));
        }
        entry.deliveries += 1;
        if entry.deliveries > self.deliveries_max[service] {
            let text = format!("request {request} was delivered {} times", entry.deliveries);
            return Err(Violation::new("deliveries", text));
        }
        Ok(Some(request))
    }

    /// A worker begins to answer.
    pub(crate) fn job(&mut self, request: u64, forged: bool) -> u64 {
        let job = self.jobs.len() as u64 + 1;
        self.jobs.insert(job, Job { request, forged });
        job
    }

    /// The body of one part of an answer.
    pub(crate) fn part(&self, job: u64, part: u32, last: bool) -> Frames {
        let request = self.jobs[&job].request;
        let head = format!("a:{request}:{job}:{part}:{}", u8::from(last)).into_bytes();
        self.filled(head, job << 8 | u64::from(part))
    }

    /// A client heard something. Returns the request it ends, if any.
    pub(crate) fn hear(
        &mut self,
        link: usize,
        reply: ClientReply,
        alone: Option<u64>,
    ) -> Result<Option<u64>, Violation> {
        let broken = |rule, text| Err(Violation::new(rule, text));
        if reply.body[0] == sessions::REFUSED {
            let named = self.by_envelope(link, &reply.envelope).or(alone);
            let Some(request) = named else {
                self.refused_unnamed += 1;
                return Ok(None);
            };
            return self.end(request, link, End::Refused).map(Some);
        }
        let Some([request, ..]) = numbers::<4>(b"a", &reply.body[0]) else {
            let text = format!("link {link} heard {reply:?}");
            return broken("bodies", text);
        };
        let Some(entry) = self.entries.get(&request).filter(|entry| entry.link == link) else {
            return broken("own answer", format!("link {link} got the answer to {request}"));
        };
        if entry.envelope != reply.envelope {
            return broken("return stack", format!("request {request}: {:?}", reply.envelope));
        }
        if reply.service.is_some() && reply.service != entry.named {
            return broken("own service", format!("request {request}: {:?}", reply.service));
        }
        let last = self.parts(request, reply.body)?;
        if last != reply.last {
            return broken("partial replies", format!("request {request}: last is {}", reply.last));
        }
        if last { self.end(request, link, End::Answered).map(Some) } else { Ok(None) }
    }

    /// A caller inside the process was told.
    pub(crate) fn hear_local(
        &mut self,
        request: Option<u64>,
        body: Option<Frames>,
    ) -> Result<(), Violation> {
        let Some(request) = request else { return Ok(()) };
        let Some(body) = body else {
            return self.end(request, LOCAL, End::Refused).map(drop);
        };
        match numbers::<4>(b"a", &body[0]) {
            Some([named, ..]) if named == request => {}
            Some(_) | None => {
                let text = format!("a caller of {request} got {:?}", body[0]);
                return Err(Violation::new("own answer", text));
            }
        }
        self.parts(request, body)?;
        self.end(request, LOCAL, End::Answered).map(drop)
    }

    /// Requests nobody was told an end of.
    pub(crate) fn still_open(&self) -> impl Iterator<Item = (u64, &Entry)> {
        let open = |(_, entry): &(&u64, &Entry)| entry.end == End::Open;
        self.entries.iter().filter(open).map(|(request, entry)| (*request, entry))
    }

    /// Checks the parts of an answer in `body`, one or (joined) several. Says whether they end it.
    fn parts(&mut self, request: u64, body: Frames) -> Result<bool, Violation> {
        let broken = |rule, text| Err(Violation::new(rule, text));
        let mut at = 0;
        let mut last = false;
        while at < body.len() {
            let Some([_, job, part, ends]) = numbers::<4>(b"a", &body[at]) else {
                return broken("bodies", format!("request {request}: strange frame {at}"));
            };
            match self.jobs.get(&job) {
                Some(job) if job.request == request && !job.forged => {}
                Some(_) | None => {
                    return broken("forged answers", format!("request {request} by job {job}"));
                }
            }
            let must = self.part(job, part as u32, ends == 1);
            if body.get(at..at + must.len()) != Some(must.as_slice()) {
                return broken("bodies", format!("request {request}: part {part} is not as sent"));
            }
            at += must.len();
            let entry = self.entries.get_mut(&request).expect("looked up before");
            let (current, count) = entry.parts.unwrap_or((job, 0));
            if (current, u64::from(count)) != (job, part) || last {
                let text =
                    format!("request {request}: part {part} of job {job} after {count} parts");
                return broken("partial replies", text);
            }
            entry.parts = Some((job, count + 1));
            last = ends == 1;
            if !last && !entry.partials && at == body.len() {
                let text =
                    format!("request {request}: a part came to who takes only whole replies");
                return broken("partial replies", text);
            }
        }
        Ok(last)
    }

    fn end(&mut self, request: u64, link: usize, end: End) -> Result<u64, Violation> {
        let entry = self.entries.get_mut(&request).expect("looked up before");
        if entry.link != link || entry.end != End::Open {
            let text = format!("request {request} ended as {:?} and as {end:?}", entry.end);
            return Err(Violation::new("ends once", text));
        }
        entry.end = end;
        match end {
            End::Answered => self.answered += 1,
            End::Refused => self.refused += 1,
            End::Open | End::Withdrawn => {}
        }
        Ok(request)
    }

    fn by_envelope(&self, link: usize, envelope: &Frames) -> Option<u64> {
        let named = envelope.iter().find_map(|frame| numbers::<1>(b"via", frame))?[0];
        self.entries.get(&named).filter(|entry| entry.link == link).map(|_| named)
    }

    /// The body of a request: known from its number alone.
    fn body(&self, request: u64) -> Frames {
        self.filled(format!("q:{request}").into_bytes(), request)
    }

    fn filled(&self, head: Vec<u8>, salt: u64) -> Frames {
        let mut rng =
            Rng::new(self.seed ^ salt.wrapping_mul(0x2545_F491_4F6C_DD1D), head[0].into());
        let mut frames = vec![head];
        for _ in 0..rng.pick(&[0, 0, 1, 1, 2, 5]) {
            let largest = if self.large && rng.chance(10) { 100 * 1_024 } else { 300 };
            let mut frame = vec![0; rng.skewed(largest) as usize];
            for chunk in frame.chunks_mut(8) {
                chunk.copy_from_slice(&rng.u64().to_le_bytes()[..chunk.len()]);
            }
            // No part begins like another.
            if let Some(first) = frame.first_mut() {
                *first |= 0x80;
            }
            frames.push(frame);
        }
        frames
    }
}

/// The numbers of a frame like `q:12` or `a:12:3:0:1`.
fn numbers<const N: usize>(kind: &[u8], frame: &[u8]) -> Option<[u64; N]> {
    let text = std::str::from_utf8(frame.strip_prefix(kind)?.strip_prefix(b":")?).ok()?;
    let numbers: Vec<u64> = text.split(':').map(|n| n.parse().ok()).collect::<Option<_>>()?;
    numbers.try_into().ok()
}
