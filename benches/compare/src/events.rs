//! The events that every store is given: made as they are appended, and told apart by the number in their payload.

/// The type of every event.
pub const TYPE: &str = "Placed";
/// Where the number of an event stands in its payload.
const NUMBER: usize = 8;

/// Stream names side by side, because a vector of strings would show up in the memory that is measured.
pub struct Names {
    text: String,
    ends: Vec<u32>,
}

impl Names {
    pub fn new(count: usize) -> Self {
        let mut names = Self { text: String::new(), ends: Vec::with_capacity(count) };
        for number in 0..count {
            names.text.push_str(&format!("order-{number}"));
            names.ends.push(names.text.len() as u32);
        }
        names
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn get(&self, place: usize) -> &str {
        let begin = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[begin as usize..self.ends[place] as usize]
    }
}

/// One event to be appended.
pub struct Draft<'a> {
    pub stream: &'a str,
    pub payload: &'a [u8],
}

/// Events that are appended together.
pub struct Commit<'a> {
    names: &'a Names,
    /// The place among the names of the first event's stream.
    place: usize,
    payloads: &'a [u8],
    size: usize,
}

impl Commit<'_> {
    pub fn events(&self) -> impl Iterator<Item = Draft<'_>> {
        let streams = (0..self.names.len()).cycle().skip(self.place);
        let payloads = self.payloads.chunks_exact(self.size);
        payloads.zip(streams).map(|(payload, place)| Draft { stream: self.names.get(place), payload })
    }

    pub fn payloads(&self) -> impl Iterator<Item = &[u8]> {
        self.payloads.chunks_exact(self.size)
    }

    /// The event of a commit of one.
    pub fn only(&self) -> Option<Draft<'_>> {
        let single = self.payloads.len() == self.size;
        single.then(|| Draft { stream: self.names.get(self.place), payload: self.payloads })
    }
}

/// Makes commits one after the other, without allocating: event number `n` goes to stream `n` modulo the streams.
pub struct Commits<'a> {
    names: &'a Names,
    payloads: Vec<u8>,
    size: usize,
    next: u64,
    place: usize,
}

impl<'a> Commits<'a> {
    /// Commits of so many events with payloads of so many bytes, the first of which has number `first`.
    pub fn new(names: &'a Names, events: usize, size: usize, first: u64) -> Self {
        let place = (first % names.len() as u64) as usize;
        Self { names, payloads: fill(events, size), size, next: first, place }
    }

    pub fn next(&mut self) -> Commit<'_> {
        let events = self.payloads.len() / self.size;
        for payload in self.payloads.chunks_exact_mut(self.size) {
            payload[..NUMBER].copy_from_slice(&self.next.to_le_bytes());
            self.next += 1;
        }
        let place = self.place;
        self.place = (place + events) % self.names.len();
        Commit { names: self.names, place, payloads: &self.payloads, size: self.size }
    }

    /// One event that says when it was sent instead of its number.
    pub fn stamped(&mut self, stamp: u64) -> Commit<'_> {
        self.next = stamp;
        self.next()
    }
}

/// What stands at the head of a payload.
pub fn number(payload: &[u8]) -> u64 {
    payload.first_chunk::<NUMBER>().map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes))
}

/// Payloads of which one half is noise and the other is not, so that they compress about as well as JSON does.
fn fill(events: usize, size: usize) -> Vec<u8> {
    let size = size.max(NUMBER);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut payloads = vec![b'.'; events * size];
    for payload in payloads.chunks_exact_mut(size) {
        for byte in &mut payload[size / 2..] {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state as u8;
        }
    }
    payloads
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lie_side_by_side() {
        let names = Names::new(11);
        assert_eq!((names.len(), names.get(0), names.get(10)), (11, "order-0", "order-10"));
    }

    #[test]
    fn commits_go_round_the_streams_and_number_their_events() {
        let names = Names::new(3);
        let mut commits = Commits::new(&names, 2, 100, 0);
        let mut seen = Vec::new();
        for _ in 0..2 {
            seen.extend(commits.next().events().map(|event| (event.stream.to_owned(), number(event.payload))));
        }
        let expected = [("order-0", 0), ("order-1", 1), ("order-2", 2), ("order-0", 3)];
        assert_eq!(seen, expected.map(|(stream, number)| (stream.to_owned(), number)));
    }
}
