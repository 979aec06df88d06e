//! What a rank did, and when: nothing is kept, and nothing is asked, unless someone wants it.

use std::time::Instant;

use super::check::Check;

/// What a rank did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// It launched the kernel of this number.
    Kernel(u32),
    /// It made, started or waited for a collective along the axis of this number.
    Collective(u32),
}

/// One thing that a rank did.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// What.
    pub what: What,
    /// Seconds after the log was begun.
    pub start: f64,
    /// Seconds that it took.
    pub seconds: f64,
}

/// What a rank did, in order.
#[derive(Debug)]
pub struct Log {
    origin: Instant,
    events: Vec<Event>,
}

impl Log {
    /// An empty log, with room for `events`.
    pub fn new(origin: Instant, events: usize) -> Log {
        Log { origin, events: Vec::with_capacity(events) }
    }

    /// What was done so far.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Something that began at `start` is done.
    pub fn done(&mut self, what: What, start: Instant) {
        let began = start.duration_since(self.origin).as_secs_f64();
        self.events.push(Event { what, start: began, seconds: start.elapsed().as_secs_f64() });
    }
}

/// Who wants to know what a rank does, if anyone.
#[derive(Debug, Default)]
pub enum Watch {
    /// Nobody.
    #[default]
    Nobody,
    /// Who measures it.
    Log(Log),
    /// Who looks for numbers that are not finite.
    Check(Check),
}

impl Watch {
    /// The time, if there is a log to write it to.
    pub fn now(&self) -> Option<Instant> {
        matches!(self, Watch::Log(_)).then(Instant::now)
    }

    /// Notes what began at `start`, if there is a log.
    pub fn done(&mut self, what: What, start: Option<Instant>) {
        if let (Watch::Log(log), Some(start)) = (self, start) {
            log.done(what, start);
        }
    }
}
