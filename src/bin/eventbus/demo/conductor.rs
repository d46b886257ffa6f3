//! The demo, as a collector or subscriber sees it: who gives orders, and wants to hear.

use std::io::{BufRead as _, Write as _};

use tokio::sync::mpsc;

use super::failure::Failure;
use super::message::{Message, Order};

pub(crate) struct Conductor {
    orders: mpsc::UnboundedReceiver<Order>,
    tell: Box<dyn FnMut(Message) + Send>,
}

impl Conductor {
    pub(crate) fn new(
        orders: mpsc::UnboundedReceiver<Order>,
        tell: impl FnMut(Message) + Send + 'static,
    ) -> Self {
        Self { orders, tell: Box::new(tell) }
    }

    /// The conductor of a child: orders come on stdin, messages go to stdout.
    ///
    /// A thread reads stdin, since such a read can't be given up; the end of the process ends it.
    pub(crate) fn of_child() -> Result<Self, Failure> {
        let (orders, orders_end) = mpsc::unbounded_channel();
        let read = move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                let Ok(order) = serde_json::from_str(&line) else { return };
                if orders.send(order).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("demo-orders".into()).spawn(read);
        thread.map_err(|source| Failure::Host { what: "thread", source })?;
        Ok(Self::new(orders_end, |message| {
            let line = serde_json::to_string(&message).expect("messages have string keys only");
            // If the demo is gone, the orders end as well.
            let _ = writeln!(std::io::stdout(), "{line}");
        }))
    }

    /// The next order; `None` if the demo is over, or gone. Cancel-safe.
    pub(crate) async fn order(&mut self) -> Option<Order> {
        self.orders.recv().await
    }

    pub(crate) fn tell(&mut self, message: Message) {
        (self.tell)(message);
    }
}
