//! All sides in turns, and what they come to.

use std::process::ExitCode;
use std::time::Duration;

use crate::processes::Process;
use crate::{MESSAGE_BYTES, REPORTED, Side, WINDOW};

/// One side's figures of one round.
#[derive(Debug, Clone, Copy)]
struct Figures {
    per_second: f64,
    /// Nanoseconds for each message: publisher, broker, subscriber.
    cpu: [f64; 3],
    lost: u64,
}

impl Figures {
    fn cpu_of_all(&self) -> f64 {
        self.cpu.iter().sum()
    }
}

/// Runs the rounds, and prints them.
pub fn run(time: Duration, rounds: usize) -> ExitCode {
    println!(
        "messages of {MESSAGE_BYTES} B, at most {WINDOW} under way, reported every {REPORTED}; {:.1} s each",
        time.as_secs_f64()
    );
    let mut all: Vec<[Figures; 3]> = Vec::new();
    for number in 1..=rounds {
        let Some(figures) = round(number, time) else {
            eprintln!("a side did not start, or ended early");
            return ExitCode::FAILURE;
        };
        all.push(figures);
    }
    summary(&all);
    ExitCode::SUCCESS
}

fn round(number: usize, time: Duration) -> Option<[Figures; 3]> {
    let mut figures = [None; 3];
    for turn in 0..3 {
        // Nobody always comes first.
        let at = (turn + number) % 3;
        let side = Side::ALL[at];
        let run = turn_of(side, time)?;
        let [publisher, broker, subscriber] = run.cpu;
        println!(
            "round {number}: {:17} {:9.0} messages/s; CPU {:5.0} ns per message (publisher {publisher:.0}, broker {broker:.0}, \
             subscriber {subscriber:.0}); lost {}",
            side.name(),
            run.per_second,
            run.cpu_of_all(),
            run.lost
        );
        figures[at] = Some(run);
    }
    let [Some(ours), Some(busrt), Some(one_thread)] = figures else { unreachable!("each had its turn") };
    Some([ours, busrt, one_thread])
}

/// One side's turn, with processes of its own.
fn turn_of(side: Side, time: Duration) -> Option<Figures> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let broker = Process::start(side, "broker", folder.path(), time)?;
    let subscriber = Process::start(side, "subscriber", folder.path(), time)?;
    let mut publisher = Process::start(side, "publisher", folder.path(), time)?;
    let cpu = |publisher: &Process| [publisher.cpu(), broker.cpu(), subscriber.cpu()];
    let before = cpu(&publisher);
    publisher.go();
    let outcome = publisher.outcome()?;
    let after = cpu(&publisher);
    let received = outcome.received as f64;
    let of_each = |at: usize| (after[at] - before[at]).as_nanos() as f64 / received;
    Some(Figures {
        per_second: received / outcome.elapsed.as_secs_f64(),
        cpu: [of_each(0), of_each(1), of_each(2)],
        lost: outcome.sent - outcome.received,
    })
}

fn summary(all: &[[Figures; 3]]) {
    println!("medians:");
    for (at, side) in Side::ALL.into_iter().enumerate() {
        let figure = |figure: &dyn Fn(&Figures) -> f64| median(all.iter().map(|round| figure(&round[at])));
        let lost: u64 = all.iter().map(|round| round[at].lost).sum();
        println!(
            "  {:17} {:9.0} messages/s; CPU {:5.0} ns per message; lost {lost}",
            side.name(),
            figure(&|figures| figures.per_second),
            figure(&Figures::cpu_of_all)
        );
    }
    // The better of both runtimes, round by round, for each figure by itself.
    let rate = |[ours, others @ ..]: &[Figures; 3]| {
        ours.per_second / others.iter().map(|other| other.per_second).fold(0.0, f64::max)
    };
    let cpu = |[ours, others @ ..]: &[Figures; 3]| {
        ours.cpu_of_all() / others.iter().map(Figures::cpu_of_all).fold(f64::INFINITY, f64::min)
    };
    println!("ours beside the better of busrt's, medians of the rounds' ratios:");
    println!("  messages/s {:.2} x (must 1), {}", median(all.iter().map(rate)), range(all, rate));
    println!(
        "  CPU per message {:.2} x (must be no more than 1), {}",
        median(all.iter().map(cpu)),
        range(all, cpu)
    );
}

fn range(all: &[[Figures; 3]], ratio: impl Fn(&[Figures; 3]) -> f64) -> String {
    let ratios = all.iter().map(ratio);
    let (least, most) =
        ratios.fold((f64::INFINITY, 0.0_f64), |(least, most), ratio| (least.min(ratio), most.max(ratio)));
    format!("{least:.2} to {most:.2}")
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = figures.collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}
