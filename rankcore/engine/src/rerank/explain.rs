//! What each feature adds to the score of a forest: TreeSHAP.
//!
//! Source: Lundberg, Erion & Lee 2018, "Consistent Individualized Feature Attribution for Tree Ensembles",
//! arXiv:1802.03888, algorithm 2 (path dependent: a feature that is left out follows both branches, weighted by the rows
//! of training that went there).

/// Deepest tree that is explained: the work grows with the square of the depth, and walks are recursive.
pub const DEPTH_MAX: u32 = 64;

/// A tree as an explanation sees it.
pub trait Explained {
    /// The children of a split, the one that `row` takes first, and the split's feature; `None` for a leaf.
    fn branch(&self, node: u32, row: &[f64]) -> Option<([u32; 2], usize)>;
    /// Value of a leaf.
    fn value(&self, node: u32) -> f64;
    /// Rows of training that came through a node, above 0.
    fn cover(&self, node: u32) -> f64;
}

/// One feature on the way from the root.
#[derive(Clone, Copy)]
struct Step {
    /// `None`: the start of the way.
    feature: Option<usize>,
    /// Share of the ways on which the feature is unknown that lead here.
    zero: f64,
    /// 1 where the row's own value leads here, else 0.
    one: f64,
    /// Weight of the subsets of this size.
    weight: f64,
}

/// Adds what each feature of `row` contributes in the tree under `root` to `out`, one place for each feature.
///
/// `out` then sums to the leaf's value less [`expected`], up to rounding.
pub fn add_contributions(tree: &impl Explained, root: u32, row: &[f64], out: &mut [f64]) {
    descend(
        tree,
        row,
        root,
        &[],
        Step {
            feature: None,
            zero: 1.0,
            one: 1.0,
            weight: 0.0,
        },
        out,
    );
}

/// Mean value of the leaves under `root`, over the rows of training.
pub fn expected(tree: &impl Explained, root: u32, row: &[f64]) -> f64 {
    match tree.branch(root, row) {
        None => tree.value(root),
        Some((children, _)) => {
            let total: f64 = children.iter().map(|child| tree.cover(*child)).sum();
            children
                .iter()
                .map(|child| expected(tree, *child, row) * tree.cover(*child) / total)
                .sum()
        }
    }
}

fn descend(
    tree: &impl Explained,
    row: &[f64],
    node: u32,
    path: &[Step],
    next: Step,
    out: &mut [f64],
) {
    let mut path = path.to_vec();
    extend(&mut path, next);
    let Some((children, feature)) = tree.branch(node, row) else {
        let value = tree.value(node);
        for at in 1..path.len() {
            let step = path[at];
            let weight = weight_without(&path, at);
            out[step.feature.expect("only the first step has no feature")] +=
                weight * (step.one - step.zero) * value;
        }
        return;
    };
    // A feature counts once on a way: what an earlier split said of it is taken back and multiplied in.
    let (mut zero, mut one) = (1.0, 1.0);
    if let Some(at) = path.iter().position(|step| step.feature == Some(feature)) {
        (zero, one) = (path[at].zero, path[at].one);
        unwind(&mut path, at);
    }
    let total: f64 = children.iter().map(|child| tree.cover(*child)).sum();
    for (child, taken) in children.into_iter().zip([one, 0.0]) {
        let step = Step {
            feature: Some(feature),
            zero: zero * tree.cover(child) / total,
            one: taken,
            weight: 0.0,
        };
        descend(tree, row, child, &path, step, out);
    }
}

fn extend(path: &mut Vec<Step>, next: Step) {
    let length = path.len();
    path.push(Step {
        weight: if length == 0 { 1.0 } else { 0.0 },
        ..next
    });
    let size = as_f64(length + 1);
    for at in (0..length).rev() {
        path[at + 1].weight += next.one * path[at].weight * as_f64(at + 1) / size;
        path[at].weight = next.zero * path[at].weight * as_f64(length - at) / size;
    }
}

fn unwind(path: &mut Vec<Step>, index: usize) {
    let last = path.len() - 1;
    let Step { zero, one, .. } = path[index];
    let size = as_f64(last + 1);
    let mut carried = path[last].weight;
    for at in (0..last).rev() {
        if one == 0.0 {
            path[at].weight = path[at].weight * size / (zero * as_f64(last - at));
        } else {
            let before = path[at].weight;
            path[at].weight = carried * size / (as_f64(at + 1) * one);
            carried = before - path[at].weight * zero * as_f64(last - at) / size;
        }
    }
    for at in index..last {
        let weight = path[at].weight;
        path[at] = Step {
            weight,
            ..path[at + 1]
        };
    }
    path.pop();
}

/// Sum of the path's weights were the step at `index` not on it.
fn weight_without(path: &[Step], index: usize) -> f64 {
    let last = path.len() - 1;
    let Step { zero, one, .. } = path[index];
    let size = as_f64(last + 1);
    let mut carried = path[last].weight;
    let mut total = 0.0;
    for at in (0..last).rev() {
        if one == 0.0 {
            total += path[at].weight * size / (zero * as_f64(last - at));
        } else {
            let weight = carried * size / (as_f64(at + 1) * one);
            total += weight;
            carried = path[at].weight - weight * zero * as_f64(last - at) / size;
        }
    }
    total
}

#[allow(clippy::cast_precision_loss)]
fn as_f64(value: usize) -> f64 {
    value as f64
}
