//! Topics, segment by segment.

use crate::topic::{Topic, TopicError};

/// A topic in the making.
///
/// ```
/// use daemoneye_eventbus::topics::TopicBuilder;
///
/// assert_eq!(TopicBuilder::events().process().lifecycle().build(), "events.process.lifecycle");
/// let topic = TopicBuilder::control().collector().config().segment("procmond-7F").build_validated()?;
/// assert_eq!(topic.as_str(), "control.collector.config.procmond-7F");
/// assert!(TopicBuilder::events().segment("process.batch").build_validated().is_err(), "those are two segments");
/// # Ok::<(), daemoneye_eventbus::TopicError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct TopicBuilder {
    text: String,
    /// Where a segment brought a dot of its own, which would be a level that nobody has asked for.
    dot: Option<usize>,
}

macro_rules! segments {
    ($($name:ident)*) => {
        $(
            #[doc = concat!("Goes on with the segment `", stringify!($name), "`.")]
            pub fn $name(self) -> Self {
                self.segment(stringify!($name))
            }
        )*
    };
}

impl TopicBuilder {
    /// A topic without segments yet.
    pub(super) const fn empty() -> Self {
        Self { text: String::new(), dot: None }
    }

    /// A topic of events.
    pub fn events() -> Self {
        Self::empty().segment("events")
    }

    /// A topic of control.
    pub fn control() -> Self {
        Self::empty().segment("control")
    }

    segments! {
        process network filesystem performance collector agent health shutdown trigger
        lifecycle metadata tree integrity anomaly batch event
        config task registration orchestration policy heartbeat status diagnostics request
    }

    /// Goes on with any segment.
    pub fn segment(mut self, segment: &str) -> Self {
        if !self.text.is_empty() {
            self.text.push('.');
        }
        let at = self.text.len();
        self.dot = self.dot.or(segment.find('.').map(|offset| at + offset));
        self.text.push_str(segment);
        self
    }

    /// The topic as text, whatever it is.
    #[must_use]
    pub fn build(self) -> String {
        self.text
    }

    /// The topic.
    ///
    /// # Errors
    /// [`TopicError`] says which rule it breaks, and where: one dot within a segment is enough.
    pub fn build_validated(self) -> Result<Topic, TopicError> {
        match self.dot {
            Some(at) => Err(TopicError::BadCharacter { character: '.', at }),
            None => Topic::new(&self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hierarchy::names::NAMED;

    #[test]
    fn each_named_topic_can_be_built() {
        for (topic, _) in NAMED {
            let built = topic.split('.').fold(TopicBuilder::empty(), TopicBuilder::segment);
            assert_eq!(built.clone().build(), *topic);
            assert_eq!(built.build_validated(), Topic::new(topic));
        }
        assert_eq!(TopicBuilder::control().shutdown().build(), crate::topics::shutdown::BROADCAST);
    }

    #[test]
    fn a_fifth_level_is_refused() {
        let four = TopicBuilder::control().collector().config().segment("a");
        assert!(four.clone().build_validated().is_ok());
        assert_eq!(four.segment("b").build_validated(), Err(TopicError::TooManyLevels { levels: 5 }));
    }

    #[test]
    fn a_segment_is_one_level() {
        let smuggled = TopicBuilder::control().segment("x.y");
        assert_eq!(smuggled.clone().build(), "control.x.y");
        assert_eq!(smuggled.build_validated(), Err(TopicError::BadCharacter { character: '.', at: 9 }));
        assert_eq!(
            TopicBuilder::events().segment("").build_validated(),
            Err(TopicError::EmptySegment { at: 7 })
        );
    }
}
