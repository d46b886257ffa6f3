//! Threads that close what could make them wait.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Threads at a time. Each may be held up by one thing; what comes after that waits, open, for one of them to come free.
const THREADS_MAX: usize = 16;

/// A queue of things to drop, and the threads that do it.
#[derive(Debug)]
pub(super) struct Closers<T>(Mutex<State<T>>);

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<T>,
    at_work: usize,
}

impl<T: Send + 'static> Closers<T> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(State { waiting: VecDeque::new(), at_work: 0 }))
    }

    /// Drops `what`, elsewhere and later. For all of it one thread more is started: where one thing holds that up, those that are started
    /// later see to the rest.
    pub(super) fn close(&'static self, what: impl IntoIterator<Item = T>) {
        let mut state = self.state();
        state.waiting.extend(what);
        if state.at_work == THREADS_MAX {
            return;
        }
        state.at_work += 1;
        drop(state);
        let started = std::thread::Builder::new().name("eventbus-close".into()).spawn(|| self.work());
        if started.is_err() {
            // It waits for the next that can be had.
            self.state().at_work -= 1;
        }
    }

    fn work(&self) {
        while let Some(next) = self.next() {
            drop(next);
        }
    }

    /// `None`: there is nothing to do, and this thread has left.
    fn next(&self) -> Option<T> {
        let mut state = self.state();
        let next = state.waiting.pop_front();
        if next.is_none() {
            state.at_work -= 1;
        }
        next
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        // What a drop does cannot leave the queue in between.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
    use std::time::Duration;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    /// Says that its drop has begun, and waits to be let go.
    struct Slow {
        begun: Sender<()>,
        let_go: Receiver<()>,
    }

    impl Drop for Slow {
        fn drop(&mut self) {
            // Nobody asks any more once the test is over.
            let _ = self.begun.send(());
            let _ = self.let_go.recv_timeout(DEADLINE);
        }
    }

    #[test]
    fn whoever_hands_over_never_waits_however_many_closers_do() {
        static CLOSERS: Closers<Slow> = Closers::new();
        let (begun, has_begun) = channel();
        let mut let_go = Vec::new();
        for _ in 0..3 * THREADS_MAX {
            let (go, wait) = channel();
            let_go.push(go);
            // This thread would wait here for ever, if it was the one to drop it.
            CLOSERS.close([Slow { begun: begun.clone(), let_go: wait }]);
        }
        for _ in 0..THREADS_MAX {
            has_begun.recv_timeout(DEADLINE).expect("as many as there may be are at it");
        }
        assert!(has_begun.try_recv().is_err(), "and no more");
        for go in let_go {
            go.send(()).expect("it waits");
        }
        for _ in THREADS_MAX..3 * THREADS_MAX {
            has_begun.recv_timeout(DEADLINE).expect("what waited is closed in its turn");
        }
    }

    #[test]
    fn what_holds_its_closer_up_keeps_nothing_open_that_was_handed_over_with_it() {
        static CLOSERS: Closers<Slow> = Closers::new();
        let slow = || {
            let ((begun, has_begun), (go, let_go)) = (channel(), channel());
            (Slow { begun, let_go }, has_begun, go)
        };
        let (held_up, first_begun, first_go) = slow();
        let (beside, second_begun, second_go) = slow();
        let (later, third_begun, third_go) = slow();
        CLOSERS.close([held_up, beside]);
        first_begun.recv_timeout(DEADLINE).expect("there is a thread for them");
        assert_eq!(second_begun.try_recv(), Err(TryRecvError::Empty), "and no other");
        CLOSERS.close([later]);
        second_begun.recv_timeout(DEADLINE).expect("the next thread sees to it");
        assert_eq!(first_begun.try_recv(), Err(TryRecvError::Empty), "it is held up still");
        drop(second_go);
        third_begun.recv_timeout(DEADLINE).expect("and goes on");
        drop((first_go, third_go));
    }
}
