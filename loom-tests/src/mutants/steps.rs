//! Steps in another order, or left out: what a memory ordering can't express.

use super::Mutant;

/// A piece of a source file, and what stands there instead.
#[derive(Debug)]
pub(super) struct Step {
    name: &'static str,
    file: &'static str,
    from: &'static str,
    to: &'static str,
}

impl Step {
    pub(super) fn apply(&self, file: &str, path: &str, source: &str) -> Result<Mutant, String> {
        let name = format!("{file}: {}", self.name);
        if source.matches(self.from).count() != 1 {
            return Err(format!("{name}: the source has changed, so must the mutant"));
        }
        Ok(Mutant { name, file: path.to_owned(), source: source.replace(self.from, self.to) })
    }
}

pub(super) fn of(file: &str) -> impl Iterator<Item = &'static Step> {
    STEPS.iter().filter(move |step| step.file == file)
}

const STEPS: [Step; 22] = [
    Step {
        name: "the tail is stored before the record",
        file: "producer",
        from: "        self.write(Tag { length, slot, generation }, sequence, parts);\n        self.tail += size;\n",
        to: "        self.memory.tail().store(self.tail + size, Ordering::Release);\n        self.write(Tag { length, slot, generation }, sequence, parts);\n        self.tail += size;\n",
    },
    Step {
        name: "a record says nothing of its grant",
        file: "producer",
        from: "        self.write(Tag { length, slot, generation }, sequence, parts);\n",
        to: "        let _ = generation;\n        self.write(Tag { length, slot, generation: 0 }, sequence, parts);\n",
    },
    Step {
        name: "padding is not written",
        file: "producer",
        from: "        words[0].store(tag.to_word(), Ordering::Relaxed);\n        for word in &words[1..] {",
        to: "        let _ = tag;\n        for word in &words[1..] {",
    },
    Step {
        name: "a full ring is overwritten",
        file: "producer",
        from: "        if self.has_room(size)? { Ok(()) } else { Err(PushError::Full) }",
        to: "        let _ = self.has_room(size)?;\n        Ok(())",
    },
    Step {
        name: "the count is stored first",
        file: "producer",
        from: "        // DATA: pairs with the consumer's load of `tail`.\n",
        to: "        self.memory.attempted().store(self.attempted, Ordering::Release);\n",
    },
    Step {
        name: "a loss is stored before its slot",
        file: "producer",
        from: "            for slot in self.lossy.drain(..) {",
        to: "            self.memory.lost().store(self.lost, Ordering::Release);\n            for slot in self.lossy.drain(..) {",
    },
    Step {
        name: "losses are stored before the tail",
        file: "producer",
        from: "        // DATA: pairs with the consumer's load of `tail`.\n",
        to: "        for &slot in &self.lossy {\n            let count = self.slots[usize::from(slot)].attempted;\n            self.memory.slots()[usize::from(slot)].store(count, Ordering::Release);\n        }\n        self.memory.lost().store(self.lost, Ordering::Release);\n",
    },
    Step {
        name: "the end is stored before what came before it",
        file: "producer",
        from: "    pub fn close(&mut self) -> bool {\n",
        to: "    pub fn close(&mut self) -> bool {\n        self.memory.closed().store(1, Ordering::Release);\n",
    },
    Step {
        name: "a record wakes nobody",
        file: "producer",
        from: "        crossed || unanswered\n",
        to: "        let _ = crossed;\n        unanswered\n",
    },
    Step {
        name: "any record wakes",
        file: "producer",
        from: "let crossed = before < wake_at && wake_at <= self.published;",
        to: "let crossed = before < self.published && wake_at != AWAKE;",
    },
    Step {
        name: "a loss wakes nobody",
        file: "producer",
        from: "        crossed || unanswered\n",
        to: "        crossed\n",
    },
    Step {
        name: "a loss wakes once for ever",
        file: "producer",
        from: "&& wake_at != self.answered",
        to: "&& self.answered == AWAKE",
    },
    Step {
        name: "the end wakes nobody",
        file: "producer",
        from: "        self.memory.wake_at().load(Ordering::Relaxed) != AWAKE\n",
        to: "        false\n",
    },
    Step {
        name: "room is looked for before it is asked for",
        file: "producer",
        from: "        // ROOM: our store before our look at the space that the consumer gave back.\n        fence(Ordering::SeqCst);\n        let sleep = self.refresh_head().map(|()| self.head < room_at);\n",
        to: "        self.memory.room_at().store(AWAKE, Ordering::Relaxed);\n        let sleep = self.refresh_head().map(|()| self.head < room_at);\n        self.memory.room_at().store(room_at, Ordering::Relaxed);\n        fence(Ordering::SeqCst);\n",
    },
    Step {
        name: "space is given back before it is read",
        file: "consumer",
        from: "        self.memory.head().store(self.position, Ordering::Release);\n",
        to: "        self.memory.head().store(self.tail, Ordering::Release);\n",
    },
    Step {
        // Neither SLEEP nor ROOM, but what ANSWER needs of the same fence.
        name: "the fence behind the space releases nothing",
        file: "consumer",
        from: "        // ROOM: our store before our look at `room_at`. ANSWER: and before our next store of `wake_at`.\n        fence(Ordering::SeqCst);\n",
        to: "        fence(Ordering::Acquire);\n",
    },
    Step {
        name: "space wakes nobody",
        file: "consumer",
        from: "        before < room_at && room_at <= self.position\n",
        to: "        let _ = (before, room_at);\n        false\n",
    },
    Step {
        name: "the tail is not looked at again before a loss is told",
        file: "consumer",
        from: "        self.refresh_tail()?;\n        if self.position != self.tail {\n            return Ok(());\n        }\n        self.lost = all;\n",
        to: "        if self.position != self.tail {\n            return Ok(());\n        }\n        self.lost = all;\n",
    },
    Step {
        name: "sleeps over a loss",
        file: "consumer",
        from: "&& lost == self.lost && closed == 0;",
        to: "&& closed == 0;\n        let _ = lost;",
    },
    Step {
        name: "sleeps over the end",
        file: "consumer",
        from: "&& lost == self.lost && closed == 0;",
        to: "&& lost == self.lost;\n        let _ = closed;",
    },
    Step {
        name: "sleeps over records",
        file: "consumer",
        from: "let sleep = self.tail - self.position < want && lost == self.lost",
        to: "let sleep = lost == self.lost",
    },
    Step {
        name: "ends before the records do",
        file: "consumer",
        from: "        Ok(self.position == self.tail && self.memory.lost().load(Ordering::Relaxed) == self.lost)",
        to: "        Ok(self.memory.lost().load(Ordering::Relaxed) == self.lost)",
    },
];
