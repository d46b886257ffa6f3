//! What the reader of a queue is told beside events.

/// An interruption in a stream of events. The stream goes on after it.
///
/// ```
/// use daemoneye_eventbus::{Opaque, RecvError};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("bus.sock");
/// # use daemoneye_eventbus::{BrokerOptions, DaemoneyeBroker, DaemoneyeEventBus};
/// # let broker = DaemoneyeBroker::with_options(BrokerOptions::new(&path).queue_bytes(1))?;
/// # let bus = DaemoneyeEventBus::from_broker(broker).await?;
/// // The broker's options had `queue_bytes(1)`: one batch waits at most.
/// let mut batches = bus.subscription(&["events.process.#"]).await?;
/// let mut publisher = bus.publisher("events.process.batch").await?;
/// for event in [b"1", b"2", b"3"] {
///     publisher.publish(&Opaque(event))?;
/// }
/// assert!(matches!(batches.recv().await, Some(Ok(_))));
/// assert_eq!(batches.recv().await.expect("the bus is there").err(), Some(RecvError::Lagged(2)));
/// publisher.publish(&Opaque(b"4"))?;
/// assert!(matches!(batches.recv().await, Some(Ok(_))), "the stream goes on");
/// assert_eq!(publisher.totals().dropped, 0, "of a loss behind the ring, the publisher does not hear");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// This many events that matched the subscription were lost here: the subscriber was too slow for the ring, or for its
    /// queue. The events before and after are in order.
    #[error("{0} events were lost")]
    Lagged(u64),
    /// A publisher broke the laws of its ring. Nothing more comes from it; other publishers are not affected.
    #[error("{component} broke its ring: {violation}")]
    Poisoned {
        /// Who.
        component: String,
        /// How.
        violation: String,
    },
    /// A publisher has had no ring by the broker of now for two minutes: that from before is read no further. What it publishes comes here
    /// again once it is back.
    #[error("{component} has not come back to the broker, and is not read any further until it does")]
    CutOff {
        /// Whose it is.
        component: String,
    },
    /// The broker had ended the session, and with it all rings, until this process came back: what was published meanwhile did not come
    /// here, and how much that was nobody knows.
    #[error("the session was over for a while: {why}")]
    Away {
        /// Why.
        why: String,
    },
}

/// Events that matched a subscription and were lost on their way to it, told to it or yet to be told.
///
/// ```
/// use daemoneye_eventbus::Opaque;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("bus.sock");
/// # use daemoneye_eventbus::{BrokerOptions, DaemoneyeBroker, DaemoneyeEventBus};
/// # let broker = DaemoneyeBroker::with_options(BrokerOptions::new(&path).queue_bytes(1))?;
/// # let bus = DaemoneyeEventBus::from_broker(broker).await?;
/// // The broker's options had `queue_bytes(1)`: one batch waits at most.
/// let batches = bus.subscription(&["events.process.#"]).await?;
/// let mut publisher = bus.publisher("events.process.batch").await?;
/// for event in [b"1", b"2", b"3"] {
///     publisher.publish(&Opaque(event))?;
/// }
/// assert_eq!((batches.losses().ring, batches.losses().queue), (0, 2));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Losses {
    /// Events that found a ring to this process full, since it was stopped or had no processor to run on; or too small for them; or that
    /// were on their way already when the subscription came.
    pub ring: u64,
    /// Events that found the subscription's queue full: the application is too slow.
    pub queue: u64,
}
