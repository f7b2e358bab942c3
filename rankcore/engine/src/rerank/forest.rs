//! Gradient-boosted trees in LightGBM's text format: the final order of a tier.
//!
//! Only what a ranking model needs is read: numerical splits, one output, constant leaves. Anything else is
//! refused when the bundle is opened, so that scoring cannot fail.

use crate::error::{Error, Result};
use crate::rerank::explain::{self, Explained};

/// Values this close to 0 count as 0 where zero means "missing" (LightGBM's `kZeroThreshold`).
const ZERO_THRESHOLD: f64 = 1e-35_f32 as f64;

const CATEGORICAL: u8 = 1;
const DEFAULT_LEFT: u8 = 2;

/// One split, or a leaf. A leaf is a split whose two children are itself, so that rows of different depth can
/// take the same number of steps: no branch of the walk depends on the data.
#[derive(Clone, Copy, Debug)]
struct Node {
    threshold: f64,
    /// Where to go on: right, left.
    children: [u32; 2],
    feature: u32,
    /// Where a missing value goes.
    default_left: bool,
    /// True: zero counts as missing, as NaN always does.
    zero_missing: bool,
}

#[derive(Clone, Copy, Debug)]
struct Tree {
    root: u32,
    /// Steps from the root to the deepest leaf.
    depth: u32,
}

/// A LightGBM model.
#[derive(Clone, Debug)]
pub struct Forest {
    feature_names: Vec<String>,
    trees: Vec<Tree>,
    nodes: Vec<Node>,
    /// Per node: the value of a leaf, 0 for a split.
    values: Vec<f64>,
    /// Per node: rows of training that came through it. Empty: the model does not say.
    covers: Vec<f64>,
    /// True: some node takes zero as missing.
    zero_missing: bool,
}

/// Walks down trees that go on together: one walk waits for memory at every step, several hide each other's wait.
const WALKS: usize = 8;

impl Forest {
    /// Reads a model written by LightGBM's `save_model` / `model_to_string`.
    ///
    /// Errors: [`Error::Bundle`] saying which tree and key is malformed or not supported (categorical splits,
    /// linear leaves, several classes, averaged output).
    pub fn parse(text: &str) -> Result<Forest> {
        parse(text).map_err(Error::Bundle)
    }

    /// Names of the columns of a row, in order.
    pub fn feature_names(&self) -> &[String] {
        &self.feature_names
    }

    /// Number of trees.
    pub fn trees(&self) -> usize {
        self.trees.len()
    }

    /// Raw score of one row (NaN: unknown), the sum of the trees' leaves in order, as LightGBM's `raw_score`.
    ///
    /// Panics if the row is shorter than [`Forest::feature_names`].
    pub fn score(&self, row: &[f64]) -> f64 {
        let row = &row[..self.feature_names.len()];
        if self.zero_missing {
            self.score_row::<true>(row)
        } else {
            self.score_row::<false>(row)
        }
    }

    /// Raw scores of `rows` (row-major, [`Forest::feature_names`] wide), written to `out`.
    ///
    /// Faster than one row after the other; the additions of one row happen in the same order as in
    /// [`Forest::score`], so the results are the same bits. Panics if the lengths do not match.
    pub fn score_rows(&self, rows: &[f64], out: &mut [f64]) {
        let width = self.feature_names.len();
        assert_eq!(
            rows.len(),
            width * out.len(),
            "rows must be out.len() x features"
        );
        for (rows, scores) in rows.chunks(WALKS * width).zip(out.chunks_mut(WALKS)) {
            if scores.len() < WALKS {
                for (row, score) in rows.chunks_exact(width).zip(scores) {
                    *score = self.score(row);
                }
            } else if self.zero_missing {
                self.score_block::<true>(rows, scores);
            } else {
                self.score_block::<false>(rows, scores);
            }
        }
    }

    /// What each feature adds to [`Forest::score`] of one row, written to `out` in the order of
    /// [`Forest::feature_names`]; returns the score of a product of which nothing is known, the mean over the rows of
    /// training. Both together sum to the score, up to rounding. See [`crate::rerank::explain`].
    ///
    /// `None`: the model has no counts of its leaves, or a tree deeper than [`explain::DEPTH_MAX`]. Panics if `row` or
    /// `out` is shorter than the names.
    pub fn contributions(&self, row: &[f64], out: &mut [f64]) -> Option<f64> {
        let width = self.feature_names.len();
        let (row, out) = (&row[..width], &mut out[..width]);
        let deep = |tree: &Tree| tree.depth > explain::DEPTH_MAX;
        if self.covers.is_empty() || self.trees.iter().any(deep) {
            return None;
        }
        out.fill(0.0);
        let mut base = 0.0;
        for tree in &self.trees {
            explain::add_contributions(self, tree.root, row, out);
            base += explain::expected(self, tree.root, row);
        }
        Some(base)
    }

    /// One row down several trees at once.
    fn score_row<const ZERO: bool>(&self, row: &[f64]) -> f64 {
        let mut total = 0.0;
        let mut groups = self.trees.chunks_exact(WALKS);
        for trees in &mut groups {
            let mut at: [u32; WALKS] = std::array::from_fn(|walk| trees[walk].root);
            let depth = trees.iter().map(|tree| tree.depth).max().unwrap_or(0);
            for _ in 0..depth {
                for at in &mut at {
                    *at = self.nodes[*at as usize].next::<ZERO>(row);
                }
            }
            for at in at {
                total += self.values[at as usize];
            }
        }
        for tree in groups.remainder() {
            let mut at = tree.root;
            for _ in 0..tree.depth {
                at = self.nodes[at as usize].next::<ZERO>(row);
            }
            total += self.values[at as usize];
        }
        total
    }

    /// Several rows down one tree at once.
    fn score_block<const ZERO: bool>(&self, rows: &[f64], scores: &mut [f64]) {
        let width = self.feature_names.len();
        let rows: [&[f64]; WALKS] =
            std::array::from_fn(|row| &rows[row * width..(row + 1) * width]);
        let mut totals = [0.0; WALKS];
        for tree in &self.trees {
            let mut at = [tree.root; WALKS];
            for _ in 0..tree.depth {
                for (at, row) in at.iter_mut().zip(rows) {
                    *at = self.nodes[*at as usize].next::<ZERO>(row);
                }
            }
            for (total, at) in totals.iter_mut().zip(at) {
                *total += self.values[at as usize];
            }
        }
        scores.copy_from_slice(&totals);
    }
}

impl Explained for Forest {
    fn branch(&self, node: u32, row: &[f64]) -> Option<([u32; 2], usize)> {
        let split = self.nodes[node as usize];
        let [right, left] = split.children;
        if right == node {
            return None;
        }
        let taken = split.next::<true>(row);
        let other = if taken == left { right } else { left };
        Some(([taken, other], split.feature as usize))
    }

    fn value(&self, node: u32) -> f64 {
        self.values[node as usize]
    }

    fn cover(&self, node: u32) -> f64 {
        self.covers[node as usize]
    }
}

impl Node {
    /// LightGBM's `NumericalDecision` (`include/LightGBM/tree.h`), without branches. `ZERO`: some node of the
    /// forest has `zero_missing`.
    #[inline]
    fn next<const ZERO: bool>(&self, row: &[f64]) -> u32 {
        let value = row[self.feature as usize];
        let mut left = (value <= self.threshold) | (value.is_nan() & self.default_left);
        if ZERO {
            let missing = self.zero_missing & (value.abs() <= ZERO_THRESHOLD);
            left = (missing & self.default_left) | (!missing & left);
        }
        self.children[usize::from(left)]
    }
}

type Parsed<T> = std::result::Result<T, String>;

fn parse(text: &str) -> Parsed<Forest> {
    let mut blocks = text.split("\nTree=");
    let header = blocks.next().unwrap_or_default();
    if header.lines().next().map(str::trim) != Some("tree") {
        return Err("not a LightGBM text model (the first line must be \"tree\")".into());
    }
    if header.lines().any(|line| line.trim() == "average_output") {
        return Err("averaged output (random forest) is not supported".into());
    }
    for (key, expected) in [("num_class", "1"), ("num_tree_per_iteration", "1")] {
        let found = value(header, key).unwrap_or("1");
        if found != expected {
            return Err(format!("{key} is {found}; only {expected} is supported"));
        }
    }
    let feature_names: Vec<String> = value(header, "feature_names")
        .ok_or("feature_names is missing")?
        .split(' ')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    if feature_names.is_empty() {
        return Err("feature_names is empty".into());
    }
    let mut forest = Forest {
        feature_names,
        trees: Vec::new(),
        nodes: Vec::new(),
        values: Vec::new(),
        covers: Vec::new(),
        zero_missing: false,
    };
    let mut counted = true;
    for (index, block) in blocks.enumerate() {
        let (number, block) = block.split_once('\n').unwrap_or((block, ""));
        if number.trim() != index.to_string() {
            return Err(format!("tree {index} expected, found tree {number:?}"));
        }
        // What follows the last tree (importances, parameters) is not part of it.
        let block = block.split("\nend of trees").next().unwrap_or_default();
        let tree = add_tree(&mut forest, block).and_then(|()| add_covers(&mut forest, block));
        counted &= tree.map_err(|reason| format!("tree {index}: {reason}"))?;
    }
    if !text.contains("\nend of trees") {
        return Err("truncated: \"end of trees\" is missing".into());
    }
    if !counted {
        forest.covers.clear();
    }
    Ok(forest)
}

/// Adds up how many rows of training came through each node of the tree that was just added, which is all that an
/// explanation needs beside it. False: the model does not say.
fn add_covers(forest: &mut Forest, block: &str) -> Parsed<bool> {
    let root = forest.trees.last().map_or(0, |tree| tree.root as usize);
    let nodes = forest.nodes.len() - root;
    let leaves = nodes.div_ceil(2);
    let splits = nodes - leaves;
    forest.covers.resize(forest.nodes.len(), 0.0);
    // Of a tree that is one leaf LightGBM may write no count; none is needed.
    if splits == 0 {
        return Ok(true);
    }
    if value(block, "leaf_count").is_none() {
        return Ok(false);
    }
    let counts: Vec<u32> = many(block, "leaf_count", leaves)?;
    for (leaf, count) in counts.into_iter().enumerate() {
        // A leaf that no row reached is still a way; it must not divide by nothing.
        forest.covers[root + splits + leaf] = f64::from(count.max(1));
    }
    // Children come after their parents, and only leaves are their own children.
    for node in (root..root + splits).rev() {
        let [right, left] = forest.nodes[node].children;
        forest.covers[node] = forest.covers[right as usize] + forest.covers[left as usize];
    }
    Ok(true)
}

fn add_tree(forest: &mut Forest, block: &str) -> Parsed<()> {
    let leaves: usize = one(block, "num_leaves")?;
    if leaves == 0 {
        return Err("num_leaves is 0".into());
    }
    if value(block, "num_cat").is_some_and(|count| count != "0") {
        return Err("categorical splits are not supported".into());
    }
    if value(block, "is_linear").is_some_and(|flag| flag != "0") {
        return Err("linear leaves are not supported".into());
    }
    let leaf_values: Vec<f64> = many(block, "leaf_value", leaves)?;
    if leaf_values.iter().any(|leaf| !leaf.is_finite()) {
        return Err("leaf_value holds a value that is not finite".into());
    }
    let splits = leaves - 1;
    let root = forest.nodes.len();
    // A tree's splits come first, then its leaves; a negative child is the leaf `!child`.
    let within = |child: i32| {
        if child >= 0 {
            child as usize
        } else {
            splits + !child as usize
        }
    };
    let place = |child: i32| (root + within(child)) as u32;
    let mut depths = vec![0_u32; splits];
    let mut depth = 0;
    // A node with two parents would have two depths, and one that no split names none.
    let mut reached = vec![false; splits + leaves];
    if splits > 0 {
        let features: Vec<u32> = many(block, "split_feature", splits)?;
        let thresholds: Vec<f64> = many(block, "threshold", splits)?;
        let decisions: Vec<u8> = many(block, "decision_type", splits)?;
        let lefts: Vec<i32> = many(block, "left_child", splits)?;
        let rights: Vec<i32> = many(block, "right_child", splits)?;
        for node in 0..splits {
            let threshold = thresholds[node];
            if features[node] as usize >= forest.feature_names.len() {
                return Err(format!("split_feature {} does not exist", features[node]));
            }
            if threshold.is_nan() {
                return Err(format!("node {node} has no threshold"));
            }
            if decisions[node] & CATEGORICAL != 0 {
                return Err("categorical splits are not supported".into());
            }
            for child in [lefts[node], rights[node]] {
                // LightGBM numbers nodes in the order of splitting, so children come after their parent;
                // insisting on it rules out loops.
                let valid = if child >= 0 {
                    (child as usize) < splits && child as usize > node
                } else {
                    (!child as usize) < leaves
                };
                let again = valid && std::mem::replace(&mut reached[within(child)], true);
                if !valid || again {
                    return Err(format!("node {node} has the impossible child {child}"));
                }
                depth = depth.max(depths[node] + 1);
                if child >= 0 {
                    depths[child as usize] = depths[node] + 1;
                }
            }
            let default_left = decisions[node] & DEFAULT_LEFT != 0;
            let (default_left, zero_missing) = match (decisions[node] >> 2) & 3 {
                // Nothing counts as missing: LightGBM reads NaN as 0.
                0 => (0.0 <= threshold, false),
                1 => (default_left, true),
                2 => (default_left, false),
                other => return Err(format!("unknown missing type {other}")),
            };
            forest.nodes.push(Node {
                threshold,
                children: [place(rights[node]), place(lefts[node])],
                feature: features[node],
                default_left,
                zero_missing,
            });
            forest.values.push(0.0);
            forest.zero_missing |= zero_missing;
        }
    }
    for (leaf, value) in leaf_values.into_iter().enumerate() {
        let itself = (root + splits + leaf) as u32;
        forest.nodes.push(Node {
            threshold: 0.0,
            children: [itself; 2],
            feature: 0,
            default_left: false,
            zero_missing: false,
        });
        forest.values.push(value);
    }
    forest.trees.push(Tree {
        root: root as u32,
        depth,
    });
    Ok(())
}

/// The text after `key=` on its line.
fn value<'a>(block: &'a str, key: &str) -> Option<&'a str> {
    block
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .map(str::trim)
}

fn one<T: std::str::FromStr>(block: &str, key: &str) -> Parsed<T> {
    let text = value(block, key).ok_or_else(|| format!("{key} is missing"))?;
    text.parse()
        .map_err(|_| format!("{key} is {text:?}, which is not a number of its kind"))
}

fn many<T: std::str::FromStr>(block: &str, key: &str, count: usize) -> Parsed<Vec<T>> {
    let text = value(block, key).ok_or_else(|| format!("{key} is missing"))?;
    let values = text
        .split_ascii_whitespace()
        .map(|item| {
            item.parse()
                .map_err(|_| format!("{key} holds {item:?}, which is not a number of its kind"))
        })
        .collect::<Parsed<Vec<T>>>()?;
    if values.len() != count {
        return Err(format!(
            "{key} holds {} values, expected {count}",
            values.len()
        ));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One split of `decision` at 0.5 on the only feature: left leaf 1, right leaf 2.
    fn stump(decision: u8) -> String {
        format!(
            "tree\nversion=v4\nnum_class=1\nnum_tree_per_iteration=1\nmax_feature_idx=0\n\
             objective=lambdarank\nfeature_names=late\n\nTree=0\nnum_leaves=2\nnum_cat=0\n\
             split_feature=0\nthreshold=0.5\ndecision_type={decision}\nleft_child=-1\nright_child=-2\n\
             leaf_value=1 2\nis_linear=0\nshrinkage=1\n\n\nend of trees\n"
        )
    }

    #[test]
    fn a_value_on_the_threshold_goes_left() {
        let forest = Forest::parse(&stump(0)).unwrap();
        assert_eq!(forest.score(&[0.5]), 1.0);
        assert_eq!(forest.score(&[0.5 + f64::EPSILON]), 2.0);
    }

    #[test]
    fn missing_values_follow_lightgbm() {
        const NONE: u8 = 0;
        const ZERO: u8 = 1 << 2;
        const NAN: u8 = 2 << 2;
        const LEFT: u8 = DEFAULT_LEFT;
        // With no or zero missing type, NaN is read as 0, which is left of 0.5.
        for (decision, value, expected) in [
            (NONE, f64::NAN, 1.0),
            (NONE | LEFT, f64::NAN, 1.0),
            (ZERO, f64::NAN, 2.0),
            (ZERO | LEFT, f64::NAN, 1.0),
            (ZERO, 0.0, 2.0),
            (ZERO, 1e-36, 2.0),
            (ZERO, -1e-36, 2.0),
            (ZERO, 1e-30, 1.0),
            (ZERO | LEFT, 0.7, 2.0),
            (NAN, f64::NAN, 2.0),
            (NAN | LEFT, f64::NAN, 1.0),
            (NAN, 0.0, 1.0),
            (NAN | LEFT, f64::INFINITY, 2.0),
            (NAN, f64::NEG_INFINITY, 1.0),
        ] {
            let forest = Forest::parse(&stump(decision)).unwrap();
            assert_eq!(
                forest.score(&[value]),
                expected,
                "decision {decision}, value {value}"
            );
        }
    }

    #[test]
    fn trees_are_added_and_a_lone_leaf_is_a_constant() {
        let text = stump(0).replace(
            "\nend of trees",
            "\nTree=1\nnum_leaves=1\nnum_cat=0\nsplit_feature=\nthreshold=\ndecision_type=\nleft_child=\n\
             right_child=\nleaf_value=0.25\nis_linear=0\nshrinkage=1\n\nend of trees",
        );
        let forest = Forest::parse(&text).unwrap();
        assert_eq!(forest.trees(), 2);
        assert_eq!(forest.score(&[0.0]), 1.25);
    }

    #[test]
    fn rows_scored_together_give_the_bits_of_rows_scored_alone() {
        let forest = Forest::parse(include_str!("../../tests/fixtures/lambdarank.txt")).unwrap();
        let width = forest.feature_names().len();
        let rows: Vec<f64> = (0..width * 40)
            .map(|at| {
                if at % 7 == 0 {
                    f64::NAN
                } else {
                    (at % 13) as f64 / 6.0 - 1.0
                }
            })
            .collect();
        let mut together = vec![f64::NAN; 40];
        forest.score_rows(&rows, &mut together);
        for (row, score) in rows.chunks_exact(width).zip(together) {
            assert_eq!(forest.score(row).to_bits(), score.to_bits());
        }
    }

    #[test]
    fn scores_are_those_of_lightgbm() {
        // Written by tests/fixtures/lightgbm_forest.py: missing, zero, tiny and extreme values.
        for (model, cases) in [
            (
                include_str!("../../tests/fixtures/lambdarank.txt"),
                include_str!("../../tests/fixtures/lambdarank_scores.csv"),
            ),
            (
                include_str!("../../tests/fixtures/lambdarank_zero_missing.txt"),
                include_str!("../../tests/fixtures/lambdarank_zero_missing_scores.csv"),
            ),
        ] {
            let forest = Forest::parse(model).unwrap();
            assert_eq!(forest.trees(), 20);
            let mut compared = 0;
            for line in cases.lines() {
                let values: Vec<f64> = line
                    .split(',')
                    .map(|value| value.parse().unwrap())
                    .collect();
                let (expected, row) = values.split_last().unwrap();
                let got = forest.score(row);
                assert!(
                    (got - expected).abs() <= 1e-12,
                    "{got} against {expected}: {line}"
                );
                compared += 1;
            }
            assert_eq!(compared, 240);
        }
    }

    /// Shapley's values by their definition: over all orders in which features become known.
    fn shapley(forest: &Forest, row: &[f64]) -> Vec<f64> {
        fn mean(forest: &Forest, node: u32, row: &[f64], known: u32) -> f64 {
            let Some(([taken, other], feature)) = forest.branch(node, row) else {
                return forest.value(node);
            };
            if known >> feature & 1 == 1 {
                return mean(forest, taken, row, known);
            }
            let weight = |child| forest.cover(child) / forest.cover(node);
            weight(taken) * mean(forest, taken, row, known)
                + weight(other) * mean(forest, other, row, known)
        }
        let width = forest.feature_names().len();
        let factorial = |n: usize| (1..=n).map(|k| k as f64).product::<f64>();
        let worth = |known: u32| -> f64 {
            let trees = forest.trees.iter();
            trees.map(|tree| mean(forest, tree.root, row, known)).sum()
        };
        (0..width)
            .map(|feature| {
                let without = (0..1_u32 << width).filter(|known| known >> feature & 1 == 0);
                without
                    .map(|known| {
                        let size = known.count_ones() as usize;
                        let weight =
                            factorial(size) * factorial(width - size - 1) / factorial(width);
                        weight * (worth(known | 1 << feature) - worth(known))
                    })
                    .sum()
            })
            .collect()
    }

    #[test]
    fn contributions_are_shapley_values_and_add_up_to_the_score() {
        for (model, cases) in [
            (
                include_str!("../../tests/fixtures/lambdarank.txt"),
                include_str!("../../tests/fixtures/lambdarank_scores.csv"),
            ),
            (
                include_str!("../../tests/fixtures/lambdarank_zero_missing.txt"),
                include_str!("../../tests/fixtures/lambdarank_zero_missing_scores.csv"),
            ),
        ] {
            let forest = Forest::parse(model).unwrap();
            let width = forest.feature_names().len();
            assert!(width <= 12, "all subsets of {width} features are too many");
            let mut parts = vec![f64::NAN; width];
            for (number, line) in cases.lines().enumerate() {
                let row: Vec<f64> = line.split(',').map(|v| v.parse().unwrap()).collect();
                let base = forest.contributions(&row, &mut parts).unwrap();
                let total = base + parts.iter().sum::<f64>();
                assert!((total - forest.score(&row)).abs() < 1e-9, "{line}");
                if number % 40 == 0 {
                    for (part, expected) in parts.iter().zip(shapley(&forest, &row)) {
                        assert!((part - expected).abs() < 1e-9, "{part} against {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_model_without_counts_is_not_explained_and_wrong_counts_are_refused() {
        assert!(
            Forest::parse(&stump(0))
                .unwrap()
                .contributions(&[0.2], &mut [0.0])
                .is_none()
        );
        let counted = |counts: &str| {
            stump(0).replace("is_linear=0", &format!("leaf_count={counts}\nis_linear=0"))
        };
        let forest = Forest::parse(&counted("3 1")).unwrap();
        let mut part = [0.0];
        assert_eq!(forest.contributions(&[0.2], &mut part), Some(1.25));
        assert!((part[0] - -0.25).abs() < 1e-12);
        for wrong in ["3", "3 -1", "3 x"] {
            assert!(Forest::parse(&counted(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_cannot_be_scored_is_refused_with_the_reason() {
        let good = stump(0);
        for (from, to, reason) in [
            (
                "tree\nversion",
                "forest\nversion",
                "not a LightGBM text model",
            ),
            ("end of trees", "", "truncated"),
            ("Tree=0", "Tree=1", "tree 0 expected"),
            ("num_class=1", "num_class=3", "num_class is 3"),
            ("version=v4", "average_output", "averaged output"),
            (
                "feature_names=late",
                "feature_names=",
                "feature_names is empty",
            ),
            ("decision_type=0", "decision_type=1", "categorical"),
            ("num_cat=0", "num_cat=1", "categorical"),
            ("is_linear=0", "is_linear=1", "linear leaves"),
            ("decision_type=0", "decision_type=12", "missing type 3"),
            ("split_feature=0", "split_feature=1", "split_feature 1"),
            ("left_child=-1", "left_child=0", "impossible child 0"),
            ("left_child=-1", "left_child=-3", "impossible child -3"),
            ("left_child=-1", "left_child=7", "impossible child 7"),
            ("left_child=-1", "left_child=-2", "impossible child -2"),
            ("threshold=0.5", "threshold=", "threshold holds 0 values"),
            ("threshold=0.5", "threshold=half", "half"),
            ("leaf_value=1 2", "leaf_value=1 inf", "not finite"),
            ("num_leaves=2", "num_leaves=0", "num_leaves is 0"),
        ] {
            assert!(good.contains(from), "{from:?} is not in the text");
            let error = Forest::parse(&good.replacen(from, to, 1))
                .unwrap_err()
                .to_string();
            assert!(error.contains(reason), "{to:?}: {error}");
        }
    }
}
