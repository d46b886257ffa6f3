//! Who reads the rings of a process. Mostly that is the data thread, which hands over to whoever waits for a queue: a switch between threads
//! for each event that comes to a sleeper.
//!
//! A thread that waits for the only subscription of its process, and for nothing else, can do without: it sits down at the desk,
//! and the data thread stands aside. Then it is the thread itself that sleeps until a doorbell rings. It gets up with each item, and mostly is
//! back soon. While it is away the data thread looks now and then whether it has come back; if it has not, the data
//! thread goes on, so that rings don't fill up behind a thread that is busy. Commands of the control thread are obeyed by who sits
//! there, or soon by the data thread.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::intake::{Intake, Told};
use super::{Command, Shared};
use crate::config::AWAY_MAX;
use crate::dataplane::{Item, Queue, Taken};

/// Where the thread that reads the rings sits. One for each client, from its start on.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    state: Mutex<State>,
    /// For the data thread, when it stands aside.
    recalled: Condvar,
    /// For a thread that would sit down.
    free: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// How to ask the data thread, while there is one.
    thread: Option<Arc<Shared>>,
    /// There while nobody reads.
    intake: Option<Box<Intake>>,
    /// A thread waits to sit down, and the data thread was told.
    asked: bool,
    /// How often a thread has sat down.
    visits: u64,
    /// The data thread, which stands aside, will look by itself.
    watched: bool,
}

/// What came of waiting at the desk.
#[derive(Debug)]
pub(crate) enum Served {
    Item(Option<Item>),
    /// The time is over.
    Late,
    /// Not here: there is no data thread, or other subscriptions need one.
    Elsewhere,
}

impl Desk {
    /// The life of the data thread.
    pub(super) fn run(&self, shared: Arc<Shared>, intake: Box<Intake>) {
        self.state.lock().thread = Some(shared);
        // However this ends: nobody is to wait for it.
        let _open = Open(self);
        let mut intake = intake;
        while intake.read_until_told() == Told::StepAside {
            intake = self.stand_aside(intake);
        }
        intake.drain();
    }

    /// Leaves the intake to others until they leave it for too long.
    fn stand_aside(&self, intake: Box<Intake>) -> Box<Intake> {
        let mut state = self.state.lock();
        state.leave(intake, self);
        state.watched = true;
        loop {
            let before = state.visits;
            let late = if state.watched {
                self.recalled.wait_for(&mut state, AWAY_MAX).timed_out()
            } else {
                self.recalled.wait(&mut state);
                false
            };
            let unvisited = late && state.visits == before;
            if unvisited && let Some(intake) = state.go_on() {
                return intake;
            }
            // Who sits there when the time is over says when it gets up.
            state.watched = !late || state.intake.is_some();
        }
    }

    /// Waits for the next item of a queue, which has nothing for the moment, by reading the rings here and now. Not where others have use
    /// for them, whom a thread that is away for a while would keep waiting.
    pub(crate) fn serve(
        &self,
        queue: &Queue,
        taken: &mut Taken,
        deadline: Option<Instant>,
        alone: impl Fn() -> bool,
    ) -> Served {
        if !alone() {
            return Served::Elsewhere;
        }
        let Some(mut seat) = self.sit_down(deadline) else { return Served::Elsewhere };
        let waker = Waker::from(Arc::clone(&seat.shared));
        let mut context = Context::from_waker(&waker);
        let intake = seat.intake.as_mut().expect("it is there until the seat is left");
        loop {
            if intake.obey() == Told::Stop {
                return Served::Elsewhere;
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if let Poll::Ready(item) = intake.read_for(left, || queue.poll_next(taken, &mut context)) {
                return Served::Item(item);
            }
            if left.is_some_and(|left| left.is_zero()) {
                return Served::Late;
            }
        }
    }

    /// Takes the intake, for which the data thread stands aside; `None` if there is none, or it can't be had in time.
    fn sit_down(&self, deadline: Option<Instant>) -> Option<Seat<'_>> {
        let mut state = self.state.lock();
        let shared = Arc::clone(state.thread.as_ref()?);
        if state.intake.is_none() {
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return None;
            }
            if !std::mem::replace(&mut state.asked, true) {
                shared.tell(Command::StepAside);
            }
            match deadline {
                Some(deadline) => drop(self.free.wait_until(&mut state, deadline)),
                None => self.free.wait(&mut state),
            }
        }
        // The data thread goes on if we are slow to come, and feeds the queue: who asked again and again would not look there.
        let intake = state.intake.take()?;
        state.asked = false;
        state.visits += 1;
        Some(Seat { desk: self, shared, intake: Some(intake) })
    }
}

impl State {
    fn leave(&mut self, intake: Box<Intake>, desk: &Desk) {
        self.intake = Some(intake);
        if self.asked {
            desk.free.notify_one();
        }
        if !self.watched {
            desk.recalled.notify_one();
        }
    }

    /// Takes the intake back for the data thread. Who has asked for it, and has not come, has to ask again.
    fn go_on(&mut self) -> Option<Box<Intake>> {
        let intake = self.intake.take()?;
        (self.asked, self.watched) = (false, false);
        Some(intake)
    }
}

/// Somebody else's than the data thread's place at the desk, left when it is dropped.
struct Seat<'a> {
    desk: &'a Desk,
    shared: Arc<Shared>,
    intake: Option<Box<Intake>>,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        if let Some(intake) = self.intake.take() {
            self.desk.state.lock().leave(intake, self.desk);
        }
    }
}

/// The data thread is there.
struct Open<'a>(&'a Desk);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.thread = None;
        self.0.free.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use shm::Doorbell;

    use super::*;
    use crate::dataplane::Hub;
    use crate::dataplane::inbox::Ground;
    use crate::dataplane::wait::WaitPolicy;

    /// Long enough for a slow machine; what is waited for takes milliseconds.
    const LONG: Duration = Duration::from_secs(20);

    /// A desk, and the intake of a data thread that is played by the test.
    fn desk() -> (Arc<Desk>, Box<Intake>) {
        let (wake, woken) = Doorbell::pair().expect("descriptors");
        let shared = Arc::new(Shared {
            commands: Mutex::default(),
            waiting: AtomicBool::new(false),
            wake,
            asleep: AtomicBool::new(false),
            counters: Arc::default(),
        });
        let desk = Arc::new(Desk::default());
        desk.state.lock().thread = Some(Arc::clone(&shared));
        let (hub, events) = (Arc::new(Hub::new()), tokio::sync::mpsc::unbounded_channel().0);
        let ground = Ground { shared, hub, events, policy: WaitPolicy::default() };
        (desk, Box::new(Intake::new(&ground, woken)))
    }

    /// A thread that waits at a desk for something of a queue that is at its end.
    fn waits_at(desk: &Arc<Desk>, deadline: Option<Instant>) -> mpsc::Receiver<Served> {
        let (desk, (said, served)) = (Arc::clone(desk), mpsc::channel());
        std::thread::spawn(move || {
            let queue = Queue::new(1 << 20);
            queue.end();
            said.send(desk.serve(&queue, &mut Taken::default(), deadline, || true))
        });
        served
    }

    fn wait_until_told(desk: &Desk) {
        let since = Instant::now();
        let shared = desk.state.lock().thread.clone().expect("it is there");
        while !shared.waiting.load(Ordering::Acquire) {
            assert!(since.elapsed() < LONG, "nobody asks the data thread to stand aside");
            std::thread::yield_now();
        }
    }

    #[test]
    fn who_has_asked_and_did_not_come_in_time_can_ask_again() {
        let (desk, intake) = desk();
        desk.state.lock().asked = true;
        let mut intake = desk.stand_aside(intake);
        let served = waits_at(&desk, None);
        wait_until_told(&desk);
        assert_eq!(intake.obey(), Told::StepAside);
        let _intake = desk.stand_aside(intake);
        let served = served.recv_timeout(LONG).expect("it sits down");
        assert!(matches!(served, Served::Item(None) | Served::Elsewhere), "{served:?}");
    }

    #[test]
    fn who_comes_after_the_data_thread_has_gone_on_waits_for_its_queue() {
        let (desk, mut intake) = desk();
        let served = waits_at(&desk, None);
        wait_until_told(&desk);
        assert_eq!(intake.obey(), Told::StepAside);
        let mut state = desk.state.lock();
        state.leave(intake, &desk);
        let _intake = state.go_on().expect("nobody else had the lock");
        drop(state);
        let served = served.recv_timeout(LONG).expect("it does not wait for a seat");
        assert!(matches!(served, Served::Elsewhere), "{served:?}");
    }

    #[test]
    fn who_waits_for_a_while_waits_no_longer_for_a_seat() {
        let (desk, _intake) = desk();
        let served = waits_at(&desk, Some(Instant::now() + Duration::from_millis(1)));
        let served = served.recv_timeout(LONG).expect("it does not wait for a seat");
        assert!(matches!(served, Served::Elsewhere), "{served:?}");
    }
}
