//! The cross-encoder stage of a request: its pairs in chunks, from the top down, read by the request's own worker and, as
//! long as nothing else waits, by workers that would sleep.
//!
//! Chunks are taken back in their order, whoever read them, and a pair's score depends on nothing but the pair: so neither
//! the order nor where an early exit stops depends on how many workers there are. Nobody begins a chunk whose first pair
//! is not wanted in any case. The request's own worker waits for another's chunk only when there is none left for itself.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::{Job, Next, Services};
use crate::bundle::Tier;
use crate::error::{Error, Result};
use crate::generation::Generation;
use crate::plan::cost::{Costs, Estimate, Stage};
use crate::plan::cross_stage;
use crate::plan::pace::whole_us;
use crate::reply::{Pending, Reply};
use crate::rerank::chunks::Chunks;
use crate::retrieve::Row;
use crate::schedule::{Offer, Pressure};
use crate::signals::Column;
use crate::wire;

/// What became of a chunk.
struct Read {
    /// One score a pair, NaN where its product's tokens are not there yet; `None`: they would have come too late.
    scores: Result<Option<Vec<f32>>>,
    took_us: u64,
    /// Read by another worker than the request's own.
    helped: bool,
}

/// A chunk that was taken back: its places, and what became of it; `None`: its reader panicked.
type Ended = (Range<usize>, Option<Read>);

/// What is the same for all chunks of a request, for whoever reads one.
struct Pairs {
    services: Arc<Services>,
    generation: Arc<Generation>,
    tier: Tier,
    stage: Stage,
    /// Token ids of the query.
    query: Vec<u32>,
    /// The products, from the top down.
    rows: Vec<Row>,
    chunks: Chunks<Read>,
    costs: Costs,
    /// The caller's end of the request; `None`: a fixed plan, which nobody helps.
    pending: Option<Pending>,
    /// When the last chunk must have ended for the answer to be in time; `None`: it need not.
    ends_by_us: Option<u64>,
}

impl Pairs {
    #[allow(clippy::cast_precision_loss)]
    fn estimate(&self, pairs: usize) -> Estimate {
        self.costs.estimate(self.stage, 1.0, pairs as f64)
    }

    /// Scores of the pairs at `places`, on this thread. `None`: they would have come later than `within_us` from now.
    fn scores(&self, places: Range<usize>, within_us: Option<u64>) -> Result<Option<Vec<f32>>> {
        let Some(cross) = self.services.bundle.cross(self.tier) else {
            return Err(Error::Internal(format!("no {} to read with", self.tier)));
        };
        self.generation.with_pieces(&self.rows[places], |pieces| {
            // A product whose tokens are not there yet keeps its place among the unknown.
            let known: Vec<usize> = (0..pieces.len())
                .filter(|place| !pieces[*place].is_empty())
                .collect();
            let filled: Vec<&[u32]> = known.iter().map(|place| pieces[*place]).collect();
            let mut scores = vec![f32::NAN; pieces.len()];
            if !filled.is_empty() {
                let scored = cross.score_within(&self.query, &filled, within_us)?;
                if let Some(failure) = &scored.failure {
                    self.services.failures.note(failure);
                }
                let Some(known_scores) = scored.scores else {
                    return Ok(None);
                };
                for (place, score) in known.into_iter().zip(known_scores) {
                    scores[place] = score;
                }
            }
            Ok(Some(scores))
        })
    }
}

impl Offer for Pairs {
    fn open(&self) -> usize {
        self.chunks.open()
    }

    fn take(&self, now_us: u64) -> Option<(Range<usize>, u64)> {
        if self.pending.as_ref().is_none_or(Pending::ended) {
            return None;
        }
        let estimate = self.estimate(self.chunks.next_len());
        let in_time = |ends_by_us| now_us + whole_us(estimate.p95_us) <= ends_by_us;
        if !self.ends_by_us.is_none_or(in_time) {
            return None;
        }
        let places = self.chunks.take()?;
        Some((places, whole_us(estimate.mean_us)))
    }

    #[allow(clippy::cast_precision_loss)]
    fn run(&self, places: Range<usize>) {
        self.chunks.run(places, |places| {
            let clock = &self.services.clock;
            let (from_us, units) = (clock.now_us(), places.len() as f64);
            let scores = self.scores(places, None);
            let now_us = clock.now_us();
            let took_us = now_us.saturating_sub(from_us);
            let costs = &self.services.costs;
            costs.record(self.stage, 1.0, units, took_us as f64, now_us);
            self.services.help.count_chunk();
            Read {
                scores,
                took_us,
                helped: true,
            }
        });
    }
}

/// The stage as the request's own worker sees it.
pub(super) struct Reading {
    pairs: Arc<Pairs>,
    offered: bool,
    /// Length of the chunk that this worker read last.
    last_chunk_us: f64,
    /// Chunks taken back.
    chunks: usize,
    /// Time of cores that the chunks took.
    core_us: u64,
    /// Time that they kept the request's own worker.
    wall_us: u64,
}

impl Reading {
    /// What others may do.
    pub(super) fn offer(&self) -> Option<Arc<dyn Offer>> {
        self.offered
            .then(|| Arc::clone(&self.pairs) as Arc<dyn Offer>)
    }
}

impl Job {
    /// Lays the stage out once the candidates are in their order. Without the part that the plan needs nothing is laid out.
    pub(super) fn begin_cross(&mut self) {
        let services = Arc::clone(&self.services);
        let (Some(stage), Some(cross), Some(query)) = (
            cross_stage(self.plan.tier),
            services.bundle.cross(self.plan.tier),
            self.query.as_ref(),
        ) else {
            return;
        };
        let total = self.plan.depth.min(self.order.len());
        let rows = self.order[..total]
            .iter()
            .map(|(candidate, _)| self.rows[*candidate])
            .collect();
        let now_us = services.clock.now_us();
        let pairs = Pairs {
            generation: Arc::clone(&self.generation),
            tier: self.plan.tier,
            stage,
            query: query.pieces.clone(),
            rows,
            chunks: Chunks::new(total, services.chunk_pairs(), self.certain()),
            costs: self.costs,
            pending: self.reply.as_ref().and_then(Reply::pending),
            ends_by_us: self.pace.room_us(now_us).map(|room_us| now_us + room_us),
            services: Arc::clone(&services),
        };
        self.reading = Some(Reading {
            offered: pairs.pending.is_some() && !cross.delegated(),
            pairs: Arc::new(pairs),
            last_chunk_us: 0.0,
            chunks: 0,
            core_us: 0,
            wall_us: 0,
        });
    }

    /// Predicted length of the next step of the stage.
    pub(super) fn cross_step(&self) -> Estimate {
        self.reading
            .as_ref()
            .map_or_else(Estimate::default, |reading| {
                let pairs = &reading.pairs;
                match pairs.chunks.next_len() {
                    // What is left is being read by others.
                    0 => pairs.estimate(pairs.services.chunk_pairs()),
                    next => pairs.estimate(next),
                }
            })
    }

    /// Reads the next chunk, or waits for one that another worker reads; stops with what there is when time is short.
    pub(super) fn advance_cross(&mut self, pressure: Pressure) -> Result<()> {
        let Some(reading) = &self.reading else {
            return self.or_lower(Ok(false), Next::Finish);
        };
        let pairs = Arc::clone(&reading.pairs);
        if pairs.rows.is_empty() {
            self.next = Next::Finish;
            return Ok(());
        }
        let next = pairs.chunks.next_len();
        let needed_us = pairs.estimate(next).p95_us.max(reading.last_chunk_us);
        let refused = if next > 0 {
            self.refused(needed_us, pressure)
        } else {
            None
        };
        if refused.is_some() {
            pairs.chunks.close();
        }
        let taken = pairs.chunks.take();
        let read = taken.is_some();
        if let Some(places) = taken {
            self.read_chunk(&pairs, places);
        }
        let ended = pairs.chunks.collect(Duration::ZERO);
        let came = self.take_back(&pairs, ended)?;
        let mut reason = refused;
        // What others read was judged to be in time.
        if refused.is_some() {
            while self.next == Next::Cross && !pressure.others_wait && self.await_chunk(&pairs)? {}
        } else if !read && !came && self.next == Next::Cross && !self.await_chunk(&pairs)? {
            reason = Some(wire::Reason::Deadline);
        }
        if self.next == Next::Cross
            && let Some(reason) = reason
        {
            pairs.chunks.close();
            self.stop(reason);
        }
        if self.next != Next::Cross {
            self.end_cross();
        }
        Ok(())
    }

    /// Reads a chunk on this worker.
    fn read_chunk(&mut self, pairs: &Pairs, places: Range<usize>) {
        let from_us = self.services.clock.now_us();
        let within_us = self.pace.room_us(from_us);
        let part = pairs.estimate(places.len());
        pairs.chunks.run(places.clone(), |places| {
            let scores = pairs.scores(places.clone(), within_us);
            let took_us = if let Ok(None) = scores {
                // Time went by, but it says nothing about what a chunk costs.
                let took_us = self.services.clock.now_us().saturating_sub(from_us);
                self.pace.ran(pairs.stage, Some(part), took_us);
                took_us
            } else {
                self.ran(pairs.stage, Some(part), places.len(), from_us)
            };
            Read {
                scores,
                took_us,
                helped: false,
            }
        });
        let took_us = self.services.clock.now_us().saturating_sub(from_us);
        self.timings.cross_us += took_us;
        if let Some(reading) = &mut self.reading {
            #[allow(clippy::cast_precision_loss)]
            {
                reading.last_chunk_us = took_us as f64;
            }
            reading.wall_us += took_us;
        }
    }

    /// Waits for the chunk that is first in order, which another worker reads, for as long as an answer can still be in time.
    /// False: it did not come.
    fn await_chunk(&mut self, pairs: &Pairs) -> Result<bool> {
        let from_us = self.services.clock.now_us();
        let room = self.pace.room_us(from_us).map(Duration::from_micros);
        let ended = pairs.chunks.collect(room.unwrap_or(Duration::MAX));
        let waited_us = self.services.clock.now_us().saturating_sub(from_us);
        self.pace
            .ran(pairs.stage, Some(Estimate::default()), waited_us);
        self.timings.cross_us += waited_us;
        if let Some(reading) = &mut self.reading {
            reading.wall_us += waited_us;
        }
        self.take_back(pairs, ended)
    }

    /// Takes note of the chunk that has `ended` and of those after it that have ended too. False: it was none.
    fn take_back(&mut self, pairs: &Pairs, mut ended: Option<Ended>) -> Result<bool> {
        let came = ended.is_some();
        while let Some((places, read)) = ended {
            let Some(read) = read else {
                return Err(Error::Internal("a worker failed while ranking".to_owned()));
            };
            if let Some(reading) = &mut self.reading {
                reading.chunks += 1;
                reading.core_us += read.took_us;
            }
            if read.helped {
                let part = pairs.estimate(places.len());
                self.pace.helped(pairs.stage, part, read.took_us);
            }
            match read.scores {
                Ok(Some(scores)) => self.see(places, &scores)?,
                // It would have been in time, but for the others that wait where the pairs are scored.
                Ok(None) => self.stop(wire::Reason::Load),
                Err(error) => self.or_lower(Err(error), Next::Finish)?,
            }
            if self.next != Next::Cross {
                pairs.chunks.close();
                break;
            }
            pairs.chunks.want(self.certain());
            ended = pairs.chunks.collect(Duration::ZERO);
        }
        Ok(came)
    }

    /// Takes note of the scores at `places`; after the last, and where the page has settled, the answer comes next.
    fn see(&mut self, places: Range<usize>, scores: &[f32]) -> Result<()> {
        for ((candidate, _), score) in self.order[places.clone()].iter().zip(scores) {
            self.matrix
                .set(*candidate, Column::Cross, f64::from(*score));
        }
        self.cross_done = places.end;
        self.reached = self.plan.tier;
        // After the last chunk too: where it stops must not depend on the chunks.
        let total = self.plan.depth.min(self.rows.len());
        if self.settle(places.start)? || self.cross_done >= total {
            self.next = Next::Finish;
        }
        Ok(())
    }

    /// Candidates before it, from the top down, are read whatever the scores of those that are not read yet.
    fn certain(&self) -> usize {
        if self.plan.settled_pairs == 0 {
            return usize::MAX;
        }
        self.cross_done.saturating_add(self.settled.certain())
    }

    /// Looks at the candidates that the cross-encoder has read since `from`. True: the page has settled; what was read
    /// beyond that point counts as not read.
    fn settle(&mut self, from: usize) -> Result<bool> {
        if self.plan.settled_pairs == 0 || self.cross_done == from {
            return Ok(false);
        }
        let from_us = self.services.clock.now_us();
        let members: Vec<usize> = self.order[from..self.cross_done]
            .iter()
            .map(|(candidate, _)| *candidate)
            .collect();
        let scores = self.scores(self.plan.tier, &members)?;
        self.ordered(from_us);
        for (place, (_, score)) in scores.into_iter().enumerate() {
            if self.settled.see(score) {
                self.cross_done = from + place + 1;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Tells what became of the help that was counted on.
    fn end_cross(&self) {
        if let Some(reading) = &self.reading {
            self.services.help.record(
                self.helpers,
                reading.chunks,
                reading.core_us,
                reading.wall_us,
                self.services.clock.now_us(),
            );
        }
    }
}
