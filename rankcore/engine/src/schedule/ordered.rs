//! A map ordered by deadline that knows the total weight up to any of them: a treap whose nodes carry the sums of their
//! subtrees. Every operation takes O(log n) expected time, whatever the order of the keys.

/// Deadline, microseconds, and order of arrival among equals.
pub type Key = (u64, u64);

const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Node<T> {
    key: Key,
    weight: u64,
    /// Weight of the whole subtree.
    sum: u64,
    /// A parent's is at least its children's; drawn at random, it keeps the tree flat.
    rank: u32,
    left: u32,
    right: u32,
    value: Option<T>,
}

/// The map. Weights add up; keys are unique.
#[derive(Debug)]
pub struct Ordered<T> {
    nodes: Vec<Node<T>>,
    free: Vec<u32>,
    root: u32,
    random: u64,
}

impl<T> Default for Ordered<T> {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            free: Vec::new(),
            root: NONE,
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }
}

impl<T> Ordered<T> {
    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    /// True without entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.root == NONE
    }

    /// The least key.
    #[must_use]
    pub fn first(&self) -> Option<Key> {
        let mut at = self.root;
        let mut found = None;
        while at != NONE {
            let node = &self.nodes[at as usize];
            found = Some(node.key);
            at = node.left;
        }
        found
    }

    /// Weight of all entries.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.sum(self.root)
    }

    /// Weight of the entries whose deadline is at most `deadline_us`.
    #[must_use]
    pub fn total_until(&self, deadline_us: u64) -> u64 {
        let (mut at, mut total) = (self.root, 0);
        while at != NONE {
            let node = &self.nodes[at as usize];
            if node.key.0 <= deadline_us {
                total += self.sum(node.left) + node.weight;
                at = node.right;
            } else {
                at = node.left;
            }
        }
        total
    }

    /// Adds an entry; its key must be new.
    pub fn insert(&mut self, key: Key, weight: u64, value: T) {
        let node = Node {
            key,
            weight,
            sum: weight,
            rank: self.draw(),
            left: NONE,
            right: NONE,
            value: Some(value),
        };
        let new = if let Some(place) = self.free.pop() {
            self.nodes[place as usize] = node;
            place
        } else {
            self.nodes.push(node);
            u32::try_from(self.nodes.len() - 1).expect("fewer entries than 2^32")
        };
        let (before, after) = self.split(self.root, key);
        let before = self.merge(before, new);
        self.root = self.merge(before, after);
    }

    /// Takes the entry with the least key.
    pub fn pop_first(&mut self) -> Option<(Key, T)> {
        let key = self.first()?;
        self.remove(key).map(|value| (key, value))
    }

    /// Takes the entry with this key.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let (before, rest) = self.split(self.root, key);
        let (found, after) = self.split(rest, (key.0, key.1 + 1));
        self.root = self.merge(before, after);
        if found == NONE {
            return None;
        }
        self.free.push(found);
        self.nodes[found as usize].value.take()
    }

    fn draw(&mut self) -> u32 {
        // Xorshift (Marsaglia 2003): any sequence that does not depend on the keys will do.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 32) as u32
    }

    fn sum(&self, at: u32) -> u64 {
        if at == NONE {
            0
        } else {
            self.nodes[at as usize].sum
        }
    }

    fn add_up(&mut self, at: u32) {
        let node = &self.nodes[at as usize];
        let sum = node.weight + self.sum(node.left) + self.sum(node.right);
        self.nodes[at as usize].sum = sum;
    }

    /// The entries below `key`, and the others.
    fn split(&mut self, at: u32, key: Key) -> (u32, u32) {
        if at == NONE {
            return (NONE, NONE);
        }
        if self.nodes[at as usize].key < key {
            let (before, after) = self.split(self.nodes[at as usize].right, key);
            self.nodes[at as usize].right = before;
            self.add_up(at);
            (at, after)
        } else {
            let (before, after) = self.split(self.nodes[at as usize].left, key);
            self.nodes[at as usize].left = after;
            self.add_up(at);
            (before, at)
        }
    }

    /// One tree of two, all keys of the first being below those of the second.
    fn merge(&mut self, before: u32, after: u32) -> u32 {
        if before == NONE {
            return after;
        }
        if after == NONE {
            return before;
        }
        if self.nodes[before as usize].rank >= self.nodes[after as usize].rank {
            let right = self.merge(self.nodes[before as usize].right, after);
            self.nodes[before as usize].right = right;
            self.add_up(before);
            before
        } else {
            let left = self.merge(before, self.nodes[after as usize].left);
            self.nodes[after as usize].left = left;
            self.add_up(after);
            after
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Act {
        Insert(u64, u64),
        PopFirst,
        Remove(usize),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            3 => (0..40_u64, 0..1_000_u64).prop_map(|(deadline, weight)| Act::Insert(deadline, weight)),
            1 => Just(Act::PopFirst),
            1 => (0..60_usize).prop_map(Act::Remove),
        ]
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_plain_sorted_map(acts in prop::collection::vec(act(), 0..200)) {
            let mut tested = Ordered::default();
            let mut plain: BTreeMap<Key, u64> = BTreeMap::new();
            for (arrival, act) in (0_u64..).zip(acts) {
                match act {
                    Act::Insert(deadline, weight) => {
                        tested.insert((deadline, arrival), weight, weight);
                        plain.insert((deadline, arrival), weight);
                    }
                    Act::PopFirst => prop_assert_eq!(tested.pop_first(), plain.pop_first()),
                    Act::Remove(place) => {
                        let key = plain.keys().nth(place).copied().unwrap_or((99, 0));
                        prop_assert_eq!(tested.remove(key), plain.remove(&key));
                    }
                }
                prop_assert_eq!(tested.len(), plain.len());
                prop_assert_eq!(tested.is_empty(), plain.is_empty());
                prop_assert_eq!(tested.first(), plain.keys().next().copied());
                prop_assert_eq!(tested.total(), plain.values().sum::<u64>());
                for deadline in [0, 7, 20, 39, 40] {
                    let until: u64 = plain
                        .iter()
                        .filter(|((other, _), _)| *other <= deadline)
                        .map(|(_, weight)| *weight)
                        .sum();
                    prop_assert_eq!(tested.total_until(deadline), until);
                }
            }
        }
    }

    #[test]
    fn ascending_keys_do_not_make_it_deep() {
        let mut tested = Ordered::default();
        for deadline in 0..100_000 {
            tested.insert((deadline, 0), 1, ());
        }
        fn depth<T>(tree: &Ordered<T>, at: u32) -> usize {
            if at == NONE {
                return 0;
            }
            let node = &tree.nodes[at as usize];
            1 + depth(tree, node.left).max(depth(tree, node.right))
        }
        let depth = depth(&tested, tested.root);
        assert!(depth < 80, "{depth}");
    }
}
