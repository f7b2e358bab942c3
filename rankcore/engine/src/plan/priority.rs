//! What a request's quality is worth beside that of others, and when its class is refused.

use crate::wire;

/// The class of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Priority {
    /// The first to fall back to a cheaper plan, the first to be refused.
    Sheddable,
    /// Most requests.
    #[default]
    Default,
    /// Keeps its plan longest; refused only if its deadline cannot be met at all.
    Critical,
}

/// A request of weight w chooses at a price as one of weight 1 does at that price over w. Where a default request is about
/// to fall from the best plan to the cheapest (one unit of the price, see [`super::price`]), a critical one chooses as at a
/// quarter of a unit. The price that a storm of default requests can reach is four units: even there a critical request
/// chooses as a default one does at one unit.
const WEIGHT_CRITICAL: f64 = 4.0;
/// The weight that prices are made for.
const WEIGHT_DEFAULT: f64 = 1.0;
/// As far below a default request as a critical one is above it: it gives way at a quarter of a unit, about when a
/// backlog begins to last.
const WEIGHT_SHEDDABLE: f64 = 0.25;

/// Waits are predicted from expected costs; this share is added to allow for their spread.
const DELAY_MARGIN: f64 = 0.1;
/// Nothing is added: refusing what could just be met is the worse mistake, and the margin of the others leaves the room.
const DELAY_MARGIN_CRITICAL: f64 = 0.0;
/// The wait counts twice: from half of the backlog that a deadline allows, the rest is left to the others.
const DELAY_MARGIN_SHEDDABLE: f64 = 1.0;

impl Priority {
    /// All classes, lowest first.
    pub const ALL: [Self; 3] = [Self::Sheddable, Self::Default, Self::Critical];

    /// The class's name in metadata and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sheddable => "sheddable",
            Self::Default => "default",
            Self::Critical => "critical",
        }
    }

    /// The class named so, if any.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|priority| priority.as_str() == name)
    }

    /// The class of a field on the wire; `None`: the field does not say.
    ///
    /// # Errors
    /// The number itself, if it stands for no class.
    pub fn from_wire(number: i32) -> Result<Option<Self>, i32> {
        match wire::Priority::try_from(number) {
            Ok(wire::Priority::Unspecified) => Ok(None),
            Ok(wire::Priority::Critical) => Ok(Some(Self::Critical)),
            Ok(wire::Priority::Default) => Ok(Some(Self::Default)),
            Ok(wire::Priority::Sheddable) => Ok(Some(Self::Sheddable)),
            Err(_) => Err(number),
        }
    }

    /// Worth of a point of nDCG, in that of a default request.
    #[must_use]
    pub fn weight(self) -> f64 {
        match self {
            Self::Sheddable => WEIGHT_SHEDDABLE,
            Self::Default => WEIGHT_DEFAULT,
            Self::Critical => WEIGHT_CRITICAL,
        }
    }

    /// Share of the predicted wait that is added to it before a request of this class is let in.
    #[must_use]
    pub fn delay_margin(self) -> f64 {
        match self {
            Self::Sheddable => DELAY_MARGIN_SHEDDABLE,
            Self::Default => DELAY_MARGIN,
            Self::Critical => DELAY_MARGIN_CRITICAL,
        }
    }

    /// Most requests in flight with which one of this class is let in, of a queue that holds `queue_max`: half of it for
    /// sheddable ones, all but an eighth for default ones. At least 1.
    #[must_use]
    pub fn in_flight_max(self, queue_max: usize) -> usize {
        match self {
            Self::Sheddable => (queue_max / 2).max(1),
            Self::Default => queue_max - queue_max / 8,
            Self::Critical => queue_max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_has_one_name_and_one_number() {
        for priority in Priority::ALL {
            assert_eq!(Priority::parse(priority.as_str()), Some(priority));
        }
        for name in ["", "Critical", "high", " default"] {
            assert_eq!(Priority::parse(name), None, "{name:?}");
        }
        let numbers: Vec<_> = (0..4).map(Priority::from_wire).collect();
        assert_eq!(
            numbers,
            [
                Ok(None),
                Ok(Some(Priority::Critical)),
                Ok(Some(Priority::Default)),
                Ok(Some(Priority::Sheddable)),
            ]
        );
        assert_eq!(Priority::from_wire(4), Err(4));
        assert_eq!(Priority::from_wire(-1), Err(-1));
    }

    #[test]
    fn a_higher_class_weighs_more_and_is_let_in_with_more_before_it() {
        for pair in Priority::ALL.windows(2) {
            assert!(pair[0] < pair[1]);
            assert!(pair[0].weight() < pair[1].weight());
            assert!(pair[0].delay_margin() > pair[1].delay_margin());
            for queue_max in [1, 2, 7, 8, 1_024] {
                let (lower, higher) = (
                    pair[0].in_flight_max(queue_max),
                    pair[1].in_flight_max(queue_max),
                );
                assert!((1..=higher).contains(&lower) && higher <= queue_max);
            }
        }
    }
}
