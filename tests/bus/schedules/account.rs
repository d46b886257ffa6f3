//! Judges the account of one subscription: each event that was published in its time is received once and in order, or is told as
//! lost at the place where it is missing.
//!
//! A loss does not say whose it is. So each gap, the events that are missing between two that came of one stream, has to be made
//! up by losses that stand between these two, and each loss has to be used up by gaps: losses are given to the gap that ends
//! first, which finds a way if there is one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use serde_json::Value;

/// What a subscription saw, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    Run { stream: u64, first: u64, count: u64 },
    Lost(u64),
}

/// What a subscription may see of a stream: numbers from `first`, or, if the stream was written to while the subscription was
/// made, from one up to `first_latest`; all of them up to `published`, and any up to `begun`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) first: u64,
    pub(super) first_latest: u64,
    /// The end of what was published for certain.
    pub(super) published: u64,
    /// The end of what may have been: a call was cut, or goes on.
    pub(super) begun: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Exact,
    /// Something is still to come.
    Early(String),
    Wrong(String),
}

/// Events of one stream that did not come, and the places between which that has to be told.
#[derive(Debug, Clone, Copy)]
struct Gap {
    from: usize,
    to: usize,
    /// They are missing for certain.
    missing: u64,
    /// So many more may be.
    doubtful: u64,
}

const NEVER: usize = usize::MAX;

/// What a role reports of its history.
pub(super) fn entries(report: &Value) -> Vec<Entry> {
    let number = |value: &Value| value.as_u64().expect("a role counts");
    let entry = |value: &Value| match value.as_array().expect("an entry").as_slice() {
        [stream, first, count] => {
            Entry::Run { stream: number(stream), first: number(first), count: number(count) }
        }
        [lost] => Entry::Lost(number(lost)),
        other => panic!("no entry: {other:?}"),
    };
    report["entries"].as_array().expect("a list").iter().map(entry).collect()
}

/// The account of a subscription that lives, or, if it is not to be `whole`, of one that was given up at any time.
pub(super) fn judge(entries: &[Entry], spans: &BTreeMap<u64, Span>, whole: bool) -> Verdict {
    let gaps = match gaps(entries, spans, whole) {
        Ok(gaps) => gaps,
        Err(fault) => return Verdict::Wrong(fault),
    };
    let told: u64 = entries.iter().map(|entry| if let Entry::Lost(lost) = entry { *lost } else { 0 }).sum();
    let missing: u64 = gaps.iter().map(|gap| gap.missing).sum();
    let doubtful: u64 = gaps.iter().map(|gap| gap.doubtful).sum();
    if told > missing + doubtful {
        return Verdict::Wrong(format!("{told} told as lost, {missing} are, {doubtful} more may be"));
    }
    if told < missing {
        let fault = format!("{told} told as lost, {missing} are");
        return if whole { Verdict::Early(fault) } else { Verdict::Wrong(fault) };
    }
    let Err(fault) = place(entries, gaps.clone(), told - missing) else { return Verdict::Exact };
    // What was told may all be of earlier than the end, of which nothing was told yet.
    let (at_the_end, others): (Vec<Gap>, Vec<Gap>) = gaps.into_iter().partition(|gap| gap.to == NEVER);
    let untold: u64 = at_the_end.iter().map(|gap| gap.missing).sum();
    let at_the_end =
        at_the_end.into_iter().map(|gap| Gap { missing: 0, doubtful: gap.doubtful + gap.missing, ..gap });
    let gaps = others.into_iter().chain(at_the_end).collect();
    match place(entries, gaps, told + untold - missing) {
        Ok(()) if whole => Verdict::Early(fault),
        _ => Verdict::Wrong(fault),
    }
}

/// Where the stream of a subscription begins may be in doubt for one stream: each beginning is tried. `extra` is told beyond what is
/// missing for certain.
fn place(entries: &[Entry], mut gaps: Vec<Gap>, extra: u64) -> Result<(), String> {
    let heads: Vec<usize> =
        (0..gaps.len()).filter(|&at| gaps[at].doubtful > 0 && gaps[at].to != NEVER).collect();
    let ([] | [_]) = heads[..] else {
        panic!("a schedule lets one stream at most run while a subscription is made: {gaps:?}");
    };
    let Some(&head) = heads.first() else { return assign(entries, gaps) };
    let behind: u64 = gaps.iter().filter(|gap| gap.to == NEVER).map(|gap| gap.doubtful).sum();
    let (missing, doubtful) = (gaps[head].missing, gaps[head].doubtful);
    gaps[head].doubtful = 0;
    let mut fault = "more is told than can be missing".to_owned();
    for more in extra.saturating_sub(behind)..=extra.min(doubtful) {
        gaps[head].missing = missing + more;
        match assign(entries, gaps.clone()) {
            Ok(()) => return Ok(()),
            Err(why) => fault = why,
        }
    }
    Err(fault)
}

fn gaps(entries: &[Entry], spans: &BTreeMap<u64, Span>, whole: bool) -> Result<Vec<Gap>, String> {
    // Of each stream that was heard: the number that is due, and the place behind what came last.
    let mut heard: BTreeMap<u64, (u64, usize)> = BTreeMap::new();
    let mut gaps = Vec::new();
    for (to, entry) in entries.iter().enumerate() {
        let &Entry::Run { stream, first, count } = entry else { continue };
        let Some(span) = spans.get(&stream) else {
            return Err(format!("place {to}: an event of stream {stream}, which it is not for"));
        };
        if first + count > span.begun {
            return Err(format!("place {to}: {entry:?} was never published: {span:?}"));
        }
        let (missing, doubtful, from) = match heard.insert(stream, (first + count, to + 1)) {
            Some((due, _)) if first < due => {
                return Err(format!("place {to}: {entry:?} comes twice or out of order: {due} is due"));
            }
            Some((due, from)) => (first - due, 0, from),
            None if first < span.first => {
                return Err(format!("place {to}: {entry:?} is from before its time: {span:?}"));
            }
            None => (first.saturating_sub(span.first_latest), first.min(span.first_latest) - span.first, 0),
        };
        gaps.push(Gap { from, to, missing, doubtful });
    }
    for (stream, span) in spans {
        let (due, due_latest, from) =
            heard.get(stream).map_or((span.first, span.first_latest, 0), |(due, from)| (*due, *due, *from));
        let missing = if whole { span.published.saturating_sub(due_latest) } else { 0 };
        let doubtful = span.begun - due - missing;
        gaps.push(Gap { from, to: NEVER, missing, doubtful });
    }
    gaps.retain(|gap| gap.missing + gap.doubtful > 0);
    Ok(gaps)
}

/// Gives each loss to gaps around its place. What is in doubt stands at the end of a stream, and comes last.
fn assign(entries: &[Entry], mut gaps: Vec<Gap>) -> Result<(), String> {
    gaps.sort_by_key(|gap| Reverse(gap.from));
    let mut open = BinaryHeap::new();
    for (place, entry) in entries.iter().enumerate() {
        let &Entry::Lost(mut lost) = entry else { continue };
        while let Some(gap) = gaps.pop_if(|gap| gap.from <= place) {
            for (events, in_doubt) in [(gap.missing, false), (gap.doubtful, true)] {
                open.push(Reverse((gap.to, in_doubt, events)));
            }
        }
        while lost > 0 {
            let Some(Reverse((to, in_doubt, events))) = open.pop() else {
                return Err(format!("place {place}: {lost} told as lost where nothing more is missing"));
            };
            if to < place && events > 0 {
                return Err(format!("place {to}: {events} are missing before it, and not told by then"));
            }
            let used = events.min(lost);
            lost -= used;
            if used < events {
                open.push(Reverse((to, in_doubt, events - used)));
            }
        }
    }
    let left =
        open.into_iter().map(|Reverse((to, in_doubt, events))| (to, if in_doubt { 0 } else { events }));
    let left = left.chain(gaps.into_iter().map(|gap| (gap.to, gap.missing)));
    match left.filter(|(_, events)| *events > 0).min() {
        Some((to, events)) => {
            Err(format!("place {to}: {events} are missing before it, and not told by then"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn run(stream: u64, first: u64, count: u64) -> Entry {
        Entry::Run { stream, first, count }
    }

    const fn span(first: u64, first_latest: u64, published: u64, begun: u64) -> Span {
        Span { first, first_latest, published, begun }
    }

    fn verdict(entries: &[Entry], streams: &[Span]) -> Verdict {
        judge(entries, &(0..).zip(streams.iter().copied()).collect(), true)
    }

    const TEN: Span = span(0, 0, 10, 10);

    #[test]
    fn an_account_is_exact_when_each_gap_has_its_losses_at_its_place() {
        use Entry::Lost;
        let exact: &[(&[Entry], &[Span])] = &[
            (&[run(0, 0, 10)], &[TEN]),
            (&[run(0, 0, 3), Lost(2), run(0, 5, 1), Lost(4)], &[TEN]),
            (&[run(0, 0, 3), run(1, 0, 2), Lost(7), run(0, 6, 4), Lost(2), run(1, 8, 2)], &[TEN, TEN]),
            (&[run(0, 4, 3), Lost(3)], &[span(4, 4, 10, 10)]),
            (&[run(0, 6, 4)], &[span(4, 7, 10, 10)]),
            (&[Lost(1), run(0, 6, 4)], &[span(4, 7, 10, 10)]),
            (&[run(0, 0, 10)], &[span(0, 0, 8, 12)]),
            (&[run(0, 0, 8), Lost(3)], &[span(0, 0, 8, 12)]),
            (&[Lost(5)], &[span(4, 7, 10, 10)]),
        ];
        for (entries, streams) in exact {
            assert_eq!(verdict(entries, streams), Verdict::Exact, "{entries:?} of {streams:?}");
        }
    }

    #[test]
    fn each_fault_of_an_account_is_seen() {
        use Entry::Lost;
        let wrong: &[(&[Entry], &[Span])] = &[
            // Told before and behind its place, twice, and to nobody's purpose.
            (&[Lost(2), run(0, 0, 3), run(0, 5, 5)], &[TEN]),
            (&[run(0, 0, 3), run(0, 5, 5), Lost(2)], &[TEN]),
            (&[run(0, 0, 3), Lost(4), run(0, 5, 5)], &[TEN]),
            (&[run(0, 0, 3), Lost(1), run(0, 5, 3), Lost(3)], &[TEN]),
            (&[run(0, 0, 3), run(0, 4, 6), Lost(3), run(1, 2, 8)], &[TEN, TEN]),
            // Order, copies, events of nobody, of before, of later, of others.
            (&[run(0, 0, 3), run(0, 2, 8)], &[TEN]),
            (&[run(0, 3, 7), run(0, 0, 3)], &[TEN]),
            (&[run(0, 0, 11)], &[TEN]),
            (&[run(0, 3, 7)], &[span(4, 4, 10, 10)]),
            (&[run(1, 0, 1), run(0, 0, 10)], &[TEN]),
            (&[Lost(3), run(0, 6, 4)], &[span(4, 7, 10, 10)]),
        ];
        for (entries, streams) in wrong {
            let verdict = verdict(entries, streams);
            assert!(matches!(verdict, Verdict::Wrong(_)), "{verdict:?}: {entries:?} of {streams:?}");
        }
        assert!(
            matches!(verdict(&[run(0, 0, 9)], &[TEN]), Verdict::Early(_)),
            "a loss behind the last event"
        );
        assert!(matches!(verdict(&[], &[TEN]), Verdict::Early(_)));
        // Of the beginning three may be missing, and of the end one is.
        let untold = verdict(&[Lost(3), run(0, 7, 2)], &[span(4, 7, 10, 10)]);
        assert!(matches!(untold, Verdict::Early(_)), "{untold:?}");
    }
}
