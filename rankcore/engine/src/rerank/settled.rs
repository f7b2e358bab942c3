//! When the first page has settled: a cross-encoder that works from the top down may stop before its depth once the
//! candidates that it reads no longer reach the page.
//!
//! The rule looks at one candidate after the other, so where it stops does not depend on how they were cut into chunks.

/// Watches the scores of one request, in the order in which its candidates are read.
#[derive(Debug)]
pub struct Settled {
    page: usize,
    pairs: usize,
    /// The best scores so far, at most a page of them, falling.
    best: Vec<f64>,
    quiet: usize,
}

impl Settled {
    /// page: results that the caller sees, those of earlier pages included, at least 1. pairs: candidates in a row that
    /// must stay off the page; 0: it never settles.
    #[must_use]
    pub fn new(page: usize, pairs: usize) -> Self {
        Self {
            page: page.max(1),
            pairs,
            best: Vec::new(),
            quiet: 0,
        }
    }

    /// How many further candidates are read whatever their scores.
    #[must_use]
    pub fn certain(&self) -> usize {
        if self.pairs == 0 {
            return usize::MAX;
        }
        self.page - self.best.len() + self.pairs - self.quiet
    }

    /// Takes note of the next candidate's score (NaN: unknown). True: the page has settled, the rest need not be read.
    pub fn see(&mut self, score: f64) -> bool {
        if self.pairs == 0 {
            return false;
        }
        let score = if score.is_nan() {
            f64::NEG_INFINITY
        } else {
            score
        };
        // As a stable sort would place it: behind what is as good.
        let place = self.best.partition_point(|other| *other >= score);
        if place >= self.page {
            self.quiet += 1;
            return self.quiet >= self.pairs;
        }
        self.quiet = 0;
        self.best.insert(place, score);
        self.best.truncate(self.page);
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stops_at(scores: &[f64], page: usize, pairs: usize) -> Option<usize> {
        let mut settled = Settled::new(page, pairs);
        scores.iter().position(|score| settled.see(*score))
    }

    #[test]
    fn it_stops_after_so_many_candidates_that_do_not_reach_the_page() {
        assert_eq!(stops_at(&[3.0, 2.0, 1.0, 0.5, 9.0], 2, 2), Some(3));
        assert_eq!(stops_at(&[3.0, 2.0, 1.0, 2.5, 1.0], 2, 2), None);
        assert_eq!(stops_at(&[3.0, 2.0, f64::NAN, 0.0], 2, 2), Some(3));
    }

    #[test]
    fn the_first_page_is_always_read_and_zero_pairs_never_stop() {
        assert_eq!(stops_at(&[0.0; 9], 10, 1), None);
        assert_eq!(stops_at(&[5.0, 4.0, 3.0, 2.0, 1.0], 1, 0), None);
    }

    proptest! {
        #[test]
        fn what_it_calls_quiet_is_off_the_page_of_all_that_was_read(
            scores in proptest::collection::vec(-5_i8..5, 0..40),
            page in 1_usize..6,
            pairs in 1_usize..6,
        ) {
            let scores: Vec<f64> = scores.into_iter().map(f64::from).collect();
            let mut settled = Settled::new(page, pairs);
            let mut certain = settled.certain();
            for (place, score) in scores.iter().enumerate() {
                let stops = settled.see(*score);
                prop_assert!(!stops || place + 1 >= certain);
                if stops {
                    prop_assert_eq!(settled.certain(), 0);
                    break;
                }
                certain = place + 1 + settled.certain();
            }
            let read = stops_at(&scores, page, pairs).map_or(scores.len(), |at| at + 1);
            let mut order: Vec<usize> = (0..read).collect();
            order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
            if read < scores.len() {
                prop_assert!(order[..page].iter().all(|place| *place < read - pairs));
            }
        }
    }
}
