//! One order out of lexical and dense results.

use crate::bundle::{Fusion, FusionKind};

use super::Row;

/// Fuses two result lists, each best first, into one, best first, ties by row.
///
/// A row has the weighted sum of what each list gives it; a list that lacks it gives 0.
/// `rrf`: 1 / (rrf_k + rank), ranks from 1 (Cormack, Clarke & Büttcher 2009, SIGIR). `weighted`: the
/// score scaled so that the list's worst row has 0 and its best 1; a list whose scores are all equal
/// gives 1. No dense results: the lexical list keeps its order.
pub fn fuse(
    lexical: &[(Row, f32)],
    dense: Option<&[(Row, f32)]>,
    config: &Fusion,
) -> Vec<(Row, f32)> {
    let lists = [
        (lexical, config.weights.lexical),
        (dense.unwrap_or_default(), config.weights.dense),
    ];
    let mut shares: Vec<(Row, f64)> = Vec::with_capacity(lexical.len() * 2);
    for (list, weight) in lists {
        let worst = list
            .iter()
            .map(|&(_, score)| score)
            .fold(f32::INFINITY, f32::min);
        let best = list
            .iter()
            .map(|&(_, score)| score)
            .fold(f32::NEG_INFINITY, f32::max);
        let spread = f64::from(best) - f64::from(worst);
        shares.extend(list.iter().enumerate().map(|(at, &(row, score))| {
            let share = match config.kind {
                FusionKind::Rrf => 1.0 / (config.rrf_k + (at + 1) as f64),
                FusionKind::Weighted if spread > 0.0 => {
                    (f64::from(score) - f64::from(worst)) / spread
                }
                FusionKind::Weighted => 1.0,
            };
            (row, weight * share)
        }));
    }
    shares.sort_unstable_by(|left, right| left.0.cmp(&right.0).then(left.1.total_cmp(&right.1)));
    let mut fused: Vec<(Row, f64)> = Vec::with_capacity(shares.len());
    for (row, share) in shares {
        match fused.last_mut() {
            Some((last, score)) if *last == row => *score += share,
            _ => fused.push((row, share)),
        }
    }
    fused.sort_unstable_by(|left, right| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0)));
    fused
        .into_iter()
        .map(|(row, score)| (row, score as f32))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::FusionWeights;
    use proptest::prelude::*;

    fn config(kind: FusionKind, lexical: f64, dense: f64) -> Fusion {
        Fusion {
            kind,
            rrf_k: 60.0,
            weights: FusionWeights { lexical, dense },
        }
    }

    fn rows(fused: &[(Row, f32)]) -> Vec<Row> {
        fused.iter().map(|&(row, _)| row).collect()
    }

    /// A result list: distinct rows, scores falling.
    fn list() -> impl Strategy<Value = Vec<(Row, f32)>> {
        prop::collection::btree_map(0_u32..40, 0_u32..1000, 0..20).prop_map(|scores| {
            let mut list: Vec<(Row, f32)> = scores
                .into_iter()
                .map(|(row, score)| (row, score as f32 / 10.0))
                .collect();
            list.sort_by(|left, right| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0)));
            list
        })
    }

    fn kind() -> impl Strategy<Value = FusionKind> {
        prop_oneof![Just(FusionKind::Rrf), Just(FusionKind::Weighted)]
    }

    proptest! {
        #[test]
        fn every_row_comes_out_once_and_sorted(lexical in list(), dense in list(), kind in kind()) {
            let fused = fuse(&lexical, Some(&dense), &config(kind, 1.0, 0.7));
            let mut expected: Vec<Row> = rows(&lexical);
            expected.extend(rows(&dense));
            expected.sort_unstable();
            expected.dedup();
            let mut found = rows(&fused);
            found.sort_unstable();
            prop_assert_eq!(found, expected);
            prop_assert!(fused.windows(2).all(|pair| pair[0].1 >= pair[1].1));
        }

        #[test]
        fn swapping_the_lists_with_their_weights_changes_nothing(lexical in list(), dense in list(), kind in kind()) {
            let one = fuse(&lexical, Some(&dense), &config(kind, 0.3, 0.9));
            let other = fuse(&dense, Some(&lexical), &config(kind, 0.9, 0.3));
            prop_assert_eq!(rows(&one), rows(&other));
        }

        #[test]
        fn a_row_above_another_in_both_lists_stays_above(lexical in list(), dense in list(), kind in kind()) {
            let fused = rows(&fuse(&lexical, Some(&dense), &config(kind, 1.0, 1.0)));
            let place = |list: &[(Row, f32)], row: Row| list.iter().position(|&(other, _)| other == row);
            for &(above, _) in &lexical {
                for &(below, _) in &lexical {
                    let lexically = place(&lexical, above) < place(&lexical, below);
                    let densely = match (place(&dense, above), place(&dense, below)) {
                        (Some(above), Some(below)) => above < below,
                        _ => false,
                    };
                    if lexically && densely {
                        let at = |row: Row| fused.iter().position(|&other| other == row).unwrap();
                        let tie = {
                            let score = |row| lexical.iter().find(|entry| entry.0 == row).unwrap().1
                                + dense.iter().find(|entry| entry.0 == row).unwrap().1;
                            kind == FusionKind::Weighted && score(above) == score(below)
                        };
                        prop_assert!(tie || at(above) < at(below));
                    }
                }
            }
        }

        #[test]
        fn without_dense_results_the_lexical_order_stays(lexical in list()) {
            let fused = fuse(&lexical, None, &config(FusionKind::Rrf, 1.0, 1.0));
            prop_assert_eq!(rows(&fused), rows(&lexical));
        }
    }

    #[test]
    fn reciprocal_ranks_add_up() {
        let fused = fuse(
            &[(1, 9.0), (2, 5.0)],
            Some(&[(2, 0.9), (3, 0.8)]),
            &config(FusionKind::Rrf, 1.0, 2.0),
        );
        assert_eq!(rows(&fused), [2, 3, 1]);
        assert!((f64::from(fused[0].1) - (1.0 / 62.0 + 2.0 / 61.0)).abs() < 1e-7);
    }

    #[test]
    fn weighted_scores_are_scaled_to_the_list() {
        let fused = fuse(
            &[(1, 9.0), (2, 5.0), (3, 1.0)],
            Some(&[(4, 0.4)]),
            &config(FusionKind::Weighted, 1.0, 0.75),
        );
        assert_eq!(fused, [(1, 1.0), (4, 0.75), (2, 0.5), (3, 0.0)]);
    }
}
