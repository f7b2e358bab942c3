//! What a shopper takes next: the bundle's section `recommend/`, scored for one history.
//!
//! `section` is the files; `mixture` scores items for a history as docs/bundle-format.md says, to the letter; `ask` is what a
//! caller wants; `answer` turns items into products of the catalogue, by tier; `admission` chooses the tier by the time left,
//! and lets the work into the queue that all ranking shares.

pub mod admission;
pub mod answer;
pub mod ask;
pub mod mixture;
pub mod section;

use crate::wire;

/// A way to recommend, from cheap to dear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// What is popular, the same for everybody.
    Popularity,
    /// Texts that are like those of the history.
    Similar,
    /// The weighted sum of the sources' shares, but for the sequence model's.
    Mixture,
    /// The same with the sequence model's.
    Sequence,
    /// The first candidates of the whole mixture in the learnt order.
    Ordered,
}

impl Tier {
    /// All tiers, cheap to dear.
    pub const ALL: [Tier; 5] = [
        Tier::Popularity,
        Tier::Similar,
        Tier::Mixture,
        Tier::Sequence,
        Tier::Ordered,
    ];

    /// The tier's name in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Tier::Popularity => "popularity",
            Tier::Similar => "similar",
            Tier::Mixture => "mixture",
            Tier::Sequence => "sequence",
            Tier::Ordered => "ordered",
        }
    }

    /// The tier on the wire.
    #[must_use]
    pub fn to_wire(self) -> wire::Tier {
        match self {
            Tier::Popularity => wire::Tier::Popularity,
            Tier::Similar => wire::Tier::Similar,
            Tier::Mixture => wire::Tier::Mixture,
            Tier::Sequence => wire::Tier::Sequence,
            Tier::Ordered => wire::Tier::Ordered,
        }
    }
}
