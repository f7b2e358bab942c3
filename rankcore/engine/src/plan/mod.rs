//! The deadline picks the quality: which plan of the bundle to run for one request.
//!
//! Among the plans whose predicted 95th-percentile finish, behind the work that goes first, fits the budget, the one
//! with the greatest `weight(priority) x expected nDCG - price x cost` is taken. The cost is time of cores; the finish is time
//! that passes, which is less where other workers are idle and help. With price 0 the best plan that fits wins,
//! whatever the priority.

pub mod cost;
pub mod help;
pub mod pace;
pub mod price;
pub mod priority;
pub mod stalls;
pub mod way_back;

use crate::bundle::{PlanSpec, Tier};
use crate::error::{Error, Result};
use crate::schedule::retry_after_ms;
use crate::wire;
use cost::{Costs, Estimate, Stage};
use help::Help;
use price::Scale;
use priority::Priority;

/// What decides a request's cost besides the plan.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Words of the query.
    pub words: usize,
    /// Candidates that the caller brought; `None` for a search.
    pub brought: Option<usize>,
    /// Products that can be found: no search has more candidates.
    pub products: usize,
    /// Facets asked for.
    pub facets: usize,
    /// Results asked for.
    pub page: usize,
    /// Pairs in one chunk of a cross-encoder.
    pub chunk_pairs: usize,
    /// A shopper's history is to enter the final order.
    pub personal: bool,
}

impl Shape {
    /// Most candidates that a plan of this width can meet.
    #[must_use]
    pub fn candidates(&self, tier: Tier, width: usize) -> usize {
        match (self.brought, tier) {
            (Some(brought), _) => brought,
            (None, Tier::Lexical) => width.min(self.products),
            // Lists overlap: the union of two is shorter than their sum.
            (None, _) => (2 * width).min(self.products),
        }
    }
}

/// Candidates in one chunk of late interaction: about a quarter of a millisecond of work.
pub const LATE_CHUNK: usize = 256;

/// Predicted cost of every stage that a plan runs for a request of this shape, in order of running.
#[must_use]
pub fn stages(plan: &PlanSpec, shape: &Shape, costs: &Costs) -> Vec<(Stage, Estimate)> {
    let mut stages = Vec::with_capacity(8);
    let mut add = |stage, calls: usize, units: usize| {
        #[allow(clippy::cast_precision_loss)]
        stages.push((stage, costs.estimate(stage, calls as f64, units as f64)));
    };
    let candidates = shape.candidates(plan.tier, plan.width);
    match shape.brought {
        Some(_) => add(Stage::Score, 1, candidates),
        None => add(Stage::Lexical, 1, shape.words),
    }
    if plan.tier >= Tier::Hybrid {
        add(Stage::Encode, 1, shape.words);
        match shape.brought {
            Some(_) => add(Stage::Vectors, 1, candidates),
            None => add(Stage::Dense, 1, plan.width),
        }
    }
    if plan.tier >= Tier::Late {
        let late = late_depth(plan, candidates);
        add(Stage::Late, late.div_ceil(LATE_CHUNK), late);
    }
    if let Some(stage) = cross_stage(plan.tier) {
        let pairs = plan.depth.min(candidates);
        add(stage, pairs.div_ceil(shape.chunk_pairs.max(1)), pairs);
    }
    add(Stage::Order, 1, candidates);
    if shape.personal {
        add(Stage::Taste, 1, candidates.min(crate::taste::CANDIDATES));
    }
    if shape.facets > 0 {
        add(Stage::Facets, 1, shape.facets);
    }
    add(Stage::Reply, 1, shape.page);
    stages
}

/// The stage that a tier's cross-encoder is; `None`: it has none.
#[must_use]
pub fn cross_stage(tier: Tier) -> Option<Stage> {
    match tier {
        Tier::CrossSmall => Some(Stage::CrossSmall),
        Tier::CrossLarge => Some(Stage::CrossLarge),
        Tier::Lexical | Tier::Hybrid | Tier::Late => None,
    }
}

/// Predicted 95th percentile of the time that these stages of a plan take when others help as `help` says, microseconds.
#[must_use]
pub fn finish_us(plan: &PlanSpec, shape: &Shape, stages: &[(Stage, Estimate)], help: Help) -> f64 {
    let pairs = plan.depth.min(shape.candidates(plan.tier, plan.width));
    let share = help.share(pairs.div_ceil(shape.chunk_pairs.max(1)));
    stages
        .iter()
        .map(|(stage, estimate)| match stage {
            Stage::CrossSmall | Stage::CrossLarge => estimate.p95_us * share,
            _ => estimate.p95_us,
        })
        .sum()
}

/// Candidates that late interaction scores under a plan: its depth, or all of them below a cross-encoder, where late
/// interaction decides which pairs are worth a cross-encoder.
#[must_use]
pub fn late_depth(plan: &PlanSpec, candidates: usize) -> usize {
    match plan.tier {
        Tier::Lexical | Tier::Hybrid => 0,
        Tier::Late => plan.depth.min(candidates),
        Tier::CrossSmall | Tier::CrossLarge => candidates,
    }
}

/// Which parts are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// A dense index (for a search), or vectors at all (for candidates that the caller brought).
    pub dense: bool,
    /// The bundle holds a small cross-encoder.
    pub cross_small: bool,
    /// The bundle holds a large cross-encoder.
    pub cross_large: bool,
}

impl Parts {
    /// True if every part that the tier needs is there.
    #[must_use]
    pub fn allow(self, tier: Tier) -> bool {
        match tier {
            Tier::Lexical => true,
            Tier::Hybrid | Tier::Late => self.dense,
            Tier::CrossSmall => self.dense && self.cross_small,
            Tier::CrossLarge => self.dense && self.cross_large,
        }
    }
}

/// The moment of a decision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// Budget left, microseconds.
    pub budget_us: u64,
    /// Part of it kept for the way back to the caller, microseconds.
    pub reserve_us: u64,
    /// Part of it that dearer plans than the cheapest leave free for stalls, microseconds.
    pub stall_us: u64,
    /// Predicted wait behind work that goes first, microseconds.
    pub delay_us: u64,
    /// Parts that are there.
    pub parts: Parts,
    /// The request's class: how much its quality is worth, and with how much before it it is let in.
    pub priority: Priority,
    /// What a millisecond of a core costs now, in nDCG; 0 when idle.
    pub price: f64,
    /// Help that can be counted on now.
    pub help: Help,
    /// Help that could be counted on if nothing else ran.
    pub help_idle: Help,
}

/// A decision.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// The plan to run.
    pub plan: PlanSpec,
    /// Why this one.
    pub reason: wire::Reason,
    /// Its predicted cost.
    pub estimate: Estimate,
    /// Predicted 95th percentile of the time until it is done, with its wait, microseconds.
    pub finish_us: f64,
    /// Price when it was chosen, nDCG per millisecond.
    pub price: f64,
}

/// A plan as one request would meet it.
struct Priced<'a> {
    plan: &'a PlanSpec,
    /// Time of cores.
    estimate: Estimate,
    /// Time that passes, 95th percentile.
    finish_us: f64,
    /// The same if nothing else ran.
    finish_idle_us: f64,
}

/// The bundle's plans.
#[derive(Debug, Clone)]
pub struct Planner {
    plans: Vec<PlanSpec>,
}

impl Planner {
    /// A planner over the bundle's plans.
    ///
    /// A bundle without a lexical plan gets one worth nothing, so that parts can fail without an error.
    #[must_use]
    pub fn new(plans: &[PlanSpec]) -> Self {
        let mut plans = plans.to_vec();
        if !plans.iter().any(|plan| plan.tier == Tier::Lexical) {
            plans.push(PlanSpec {
                tier: Tier::Lexical,
                depth: 0,
                width: 200,
                expected_ndcg: 0.0,
                low: 0.0,
                high: 0.0,
                cost_ms: 0.0,
                settled_pairs: 0,
            });
        }
        plans.sort_by(|a, b| {
            (a.tier, a.depth, a.width)
                .cmp(&(b.tier, b.depth, b.width))
                .then(a.expected_ndcg.total_cmp(&b.expected_ndcg))
        });
        Self { plans }
    }

    /// The plans, cheapest tier first.
    #[must_use]
    pub fn plans(&self) -> &[PlanSpec] {
        &self.plans
    }

    /// The plan with the highest expected nDCG; the cheaper one of equals.
    #[must_use]
    pub fn best(&self) -> &PlanSpec {
        let mut best = &self.plans[0];
        for plan in &self.plans[1..] {
            if plan.expected_ndcg > best.expected_ndcg {
                best = plan;
            }
        }
        best
    }

    /// What the price is counted in, for requests of this shape: see [`price`].
    #[must_use]
    pub fn scale(&self, shape: &Shape, costs: &Costs) -> Scale {
        let cost_us = |plan: &PlanSpec| -> f64 {
            stages(plan, shape, costs)
                .into_iter()
                .map(|(_, estimate)| estimate.mean_us)
                .sum()
        };
        let (cheapest, best) = (&self.plans[0], self.best());
        let best_us = cost_us(best);
        let more_ms = (best_us - cost_us(cheapest)) / 1_000.0;
        let gain = best.expected_ndcg - cheapest.expected_ndcg;
        Scale {
            // Where the best plan is not dearer, a price has nothing to decide.
            slope: if more_ms > 0.0 { gain / more_ms } else { 0.0 },
            target_us: best_us,
        }
    }

    /// Expected nDCG of work that got as far as `depth` candidates of `tier` out of lists of `width`, as a share of the
    /// best plan's: that of the best plan which asks for no more than was done.
    #[must_use]
    pub fn worth(&self, tier: Tier, depth: usize, width: usize) -> f64 {
        let best = self.best().expected_ndcg;
        if best <= 0.0 {
            return 1.0;
        }
        let done = self
            .plans
            .iter()
            .filter(|plan| {
                plan.tier < tier
                    || (plan.tier == tier && plan.depth <= depth && plan.width <= width)
            })
            .map(|plan| plan.expected_ndcg)
            .fold(0.0, f64::max);
        (done / best).clamp(0.0, 1.0)
    }

    /// Chooses a plan for a request. All classes choose among the plans that fit behind the same wait, so at the same
    /// moment a higher one never gets a plan worth less; the classes differ in how much wait they are let in with, and in
    /// what a plan's quality weighs against the price of its time.
    ///
    /// # Errors
    /// `DeadlineExceeded` if not even the cheapest plan fits on an idle server; `Overloaded` if one would, but for the
    /// work that goes first.
    pub fn choose(&self, shape: &Shape, moment: &Moment, costs: &Costs) -> Result<Chosen> {
        #[allow(clippy::cast_precision_loss)]
        let room_us = moment.budget_us.saturating_sub(moment.reserve_us) as f64;
        #[allow(clippy::cast_precision_loss)]
        let stall_us = moment.stall_us as f64;
        #[allow(clippy::cast_precision_loss)]
        let wait_us = |priority: Priority| moment.delay_us as f64 * (1.0 + priority.delay_margin());
        let priced: Vec<Priced> = self
            .plans
            .iter()
            .map(|plan| {
                let stages = stages(plan, shape, costs);
                let finish_us = |help| finish_us(plan, shape, &stages, help);
                Priced {
                    plan,
                    finish_us: finish_us(moment.help),
                    finish_idle_us: finish_us(moment.help_idle),
                    estimate: stages.into_iter().map(|(_, estimate)| estimate).sum(),
                }
            })
            .collect();
        // wait: behind other work; `None`: nothing else runs.
        let fits = |priced: &Priced, wait_us: Option<f64>, parts: Option<Parts>| {
            let end_us = match wait_us {
                Some(wait_us) => wait_us + priced.finish_us,
                None => priced.finish_idle_us,
            };
            parts.is_none_or(|parts| parts.allow(priced.plan.tier)) && end_us <= room_us
        };
        let pick = |wait_us: Option<f64>, parts: Option<Parts>, price: f64, priority: Priority| {
            let utility = |priced: &Priced| {
                priority.weight() * priced.plan.expected_ndcg
                    - price * priced.estimate.mean_us / 1_000.0
            };
            let mut picked: Option<&Priced> = None;
            for candidate in &priced {
                if !fits(candidate, wait_us, parts) {
                    continue;
                }
                // Cheapest first: an equal utility keeps the cheaper plan.
                if picked.is_none_or(|best| utility(candidate) > utility(best)) {
                    picked = Some(candidate);
                }
            }
            picked
        };
        let (priority, parts, price) = (moment.priority, Some(moment.parts), moment.price);
        // Let in by the wait as its class counts it; what it gets is decided by the wait as all count it, and by the stalls
        // that are to be expected. Where nothing fits behind that, the cheapest plan leaves the most room for the next one
        // of its class, and gets through a stall best.
        let own_us = Some(wait_us(priority));
        let common_us = Some(wait_us(Priority::Default) + stall_us);
        let cheapest = priced.iter().find(|plan| fits(plan, own_us, parts));
        let chosen =
            cheapest.map(|cheapest| pick(common_us, parts, price, priority).unwrap_or(cheapest));
        let idle = || pick(None, parts, 0.0, priority);
        let Some(&Priced {
            plan,
            estimate,
            finish_us,
            ..
        }) = chosen
        else {
            return Err(match idle() {
                Some(_) => Error::Overloaded {
                    retry_after_ms: retry_after_ms(moment.delay_us),
                },
                None => Error::DeadlineExceeded(format!(
                    "{} us are too few for the cheapest plan ({:.0} us and {} us for the reply)",
                    moment.budget_us,
                    priced
                        .iter()
                        .map(|priced| priced.finish_idle_us)
                        .fold(f64::INFINITY, f64::min),
                    moment.reserve_us
                )),
            });
        };
        let better = |other: Option<&Priced>| {
            other.is_some_and(|other| other.plan.expected_ndcg > plan.expected_ndcg)
        };
        let reason = if plan.expected_ndcg >= self.best().expected_ndcg {
            wire::Reason::Best
        } else if better(pick(common_us, None, price, priority)) {
            wire::Reason::Dependency
        } else if better(pick(common_us, parts, price, Priority::Default)) {
            wire::Reason::Priority
        } else if better(idle()) {
            wire::Reason::Load
        } else {
            wire::Reason::Deadline
        };
        Ok(Chosen {
            plan: plan.clone(),
            reason,
            estimate,
            finish_us: wait_us(Priority::Default) + finish_us,
            price,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::cost::{CostBook, Rate};
    use super::*;

    fn plan(tier: Tier, depth: usize, expected_ndcg: f64) -> PlanSpec {
        PlanSpec {
            tier,
            depth,
            width: 100,
            expected_ndcg,
            low: expected_ndcg,
            high: expected_ndcg,
            cost_ms: 1.0,
            settled_pairs: 0,
        }
    }

    fn planner() -> Planner {
        Planner::new(&[
            plan(Tier::CrossSmall, 32, 0.70),
            plan(Tier::Lexical, 0, 0.60),
            plan(Tier::CrossSmall, 8, 0.68),
            plan(Tier::Late, 200, 0.66),
            plan(Tier::Hybrid, 0, 0.63),
        ])
    }

    /// Costs: lexical 300 us, hybrid 2,300 us, late 2,500 us, cross-encoder 1,000 us a pair on top.
    fn costs() -> Costs {
        let book = CostBook::new();
        for stage in Stage::ALL {
            book.calibrate(
                stage,
                Rate {
                    fixed_us: 0.0,
                    unit_us: 0.0,
                },
            );
        }
        for (stage, fixed_us, unit_us) in [
            (Stage::Lexical, 300.0, 0.0),
            (Stage::Encode, 1_500.0, 0.0),
            (Stage::Dense, 500.0, 0.0),
            (Stage::Late, 0.0, 1.0),
            (Stage::CrossSmall, 0.0, 1_000.0),
        ] {
            book.calibrate(stage, Rate { fixed_us, unit_us });
        }
        book.at(0)
    }

    fn shape() -> Shape {
        Shape {
            words: 3,
            brought: None,
            products: 10_000,
            facets: 0,
            page: 10,
            chunk_pairs: 8,
            personal: false,
        }
    }

    fn moment(budget_us: u64, delay_us: u64) -> Moment {
        Moment {
            budget_us,
            reserve_us: 2_000,
            stall_us: 0,
            delay_us,
            parts: Parts {
                dense: true,
                cross_small: true,
                cross_large: false,
            },
            priority: Priority::Default,
            price: 0.0,
            help: Help::default(),
            help_idle: Help::default(),
        }
    }

    #[test]
    fn the_deadline_picks_the_quality() {
        let table = [
            (100_000, Tier::CrossSmall, 32, wire::Reason::Best),
            (20_000, Tier::CrossSmall, 8, wire::Reason::Deadline),
            (8_000, Tier::Late, 200, wire::Reason::Deadline),
            (5_100, Tier::Hybrid, 0, wire::Reason::Deadline),
            (3_000, Tier::Lexical, 0, wire::Reason::Deadline),
        ];
        for (budget_us, tier, depth, reason) in table {
            let chosen = planner()
                .choose(&shape(), &moment(budget_us, 0), &costs())
                .expect("fits");
            assert_eq!(
                (chosen.plan.tier, chosen.plan.depth, chosen.reason),
                (tier, depth, reason),
                "budget {budget_us}"
            );
        }
    }

    #[test]
    fn a_backlog_degrades_before_it_refuses() {
        let chosen = planner()
            .choose(&shape(), &moment(100_000, 85_000), &costs())
            .expect("fits");
        assert_eq!(chosen.plan.tier, Tier::Late);
        assert_eq!(chosen.reason, wire::Reason::Load);
        let refused = planner().choose(&shape(), &moment(100_000, 99_000), &costs());
        assert!(
            matches!(refused, Err(Error::Overloaded { retry_after_ms: 99 })),
            "{refused:?}"
        );
    }

    #[test]
    fn stalls_lower_the_plan_and_keep_nobody_out() {
        // Of 20 ms, 2 are kept for the way back; the best plan that fits takes 13.65 at its 95th percentile.
        let table = [
            (0, Tier::CrossSmall, wire::Reason::Deadline),
            (5_000, Tier::Late, wire::Reason::Load),
            (15_000, Tier::Hybrid, wire::Reason::Load),
            (100_000, Tier::Lexical, wire::Reason::Load),
        ];
        for (stall_us, tier, reason) in table {
            let moment = Moment {
                stall_us,
                ..moment(20_000, 0)
            };
            let chosen = planner()
                .choose(&shape(), &moment, &costs())
                .expect("stalls keep nobody out");
            assert_eq!(
                (chosen.plan.tier, chosen.reason),
                (tier, reason),
                "{stall_us}"
            );
        }
    }

    #[test]
    fn a_plan_promises_its_wait_with_its_margin_and_its_ninety_fifth_percentile() {
        let table = [(0, Tier::CrossSmall), (85_000, Tier::Late)];
        for (delay_us, tier) in table {
            let chosen = planner()
                .choose(&shape(), &moment(100_000, delay_us), &costs())
                .expect("fits");
            #[allow(clippy::cast_precision_loss)]
            let wait_us = delay_us as f64 * (1.0 + Priority::Default.delay_margin());
            assert_eq!(chosen.plan.tier, tier);
            assert!((chosen.finish_us - chosen.estimate.p95_us - wait_us).abs() < 1e-6);
        }
    }

    #[test]
    fn a_hopeless_budget_is_refused_at_once_even_when_idle() {
        for delay_us in [0, 50_000] {
            let refused = planner().choose(&shape(), &moment(2_100, delay_us), &costs());
            assert!(
                matches!(refused, Err(Error::DeadlineExceeded(_))),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn a_missing_part_lowers_the_tier_and_says_so() {
        let mut moment = moment(100_000, 0);
        moment.parts.cross_small = false;
        let chosen = planner().choose(&shape(), &moment, &costs()).expect("fits");
        assert_eq!(
            (chosen.plan.tier, chosen.reason),
            (Tier::Late, wire::Reason::Dependency)
        );
        moment.parts.dense = false;
        let chosen = planner().choose(&shape(), &moment, &costs()).expect("fits");
        assert_eq!(
            (chosen.plan.tier, chosen.reason),
            (Tier::Lexical, wire::Reason::Dependency)
        );
        // With a budget that only lexical fits, the deadline is the reason, not the missing part.
        moment.budget_us = 3_000;
        let chosen = planner().choose(&shape(), &moment, &costs()).expect("fits");
        assert_eq!(chosen.reason, wire::Reason::Deadline);
    }

    #[test]
    fn idle_workers_let_a_deeper_plan_fit_and_its_cost_stays_what_it_is() {
        let with = |budget_us, delay_us, helpers, lost| {
            let mut moment = moment(budget_us, delay_us);
            moment.help = Help { helpers, lost };
            moment.help_idle = Help { helpers: 1, lost };
            let chosen = planner().choose(&shape(), &moment, &costs()).expect("fits");
            (chosen.plan.depth, chosen.reason, chosen.estimate.mean_us)
        };
        // The deepest plan takes 3.25 ms and 41.6 ms for 32 pairs at the 95th percentile, in 4 chunks.
        let (alone, whole) = (10_500.0, 34_500.0);
        use wire::Reason::{Best, Deadline, Load};
        assert_eq!(with(30_000, 0, 1, 0.0), (32, Best, whole));
        assert_eq!(with(25_000, 0, 1, 0.0), (8, Deadline, alone));
        assert_eq!(with(30_000, 0, 1, 0.5), (8, Deadline, alone));
        assert_eq!(with(40_000, 0, 1, 0.5), (32, Best, whole));
        // The other worker is busy now: on an idle server it would help.
        assert_eq!(with(30_000, 0, 0, 0.0), (8, Load, alone));
        // A price weighs time of cores, which help does not spare.
        let slope = planner().scale(&shape(), &costs()).slope;
        let mut moment = moment(100_000, 0);
        moment.price = 2.0 * slope;
        let dear = |help| {
            let moment = Moment { help, ..moment };
            let chosen = planner().choose(&shape(), &moment, &costs()).expect("fits");
            chosen.plan
        };
        let most = Help {
            helpers: 3,
            lost: 0.0,
        };
        assert_eq!(dear(most), dear(Help::default()));
    }

    #[test]
    fn a_price_makes_dear_plans_lose() {
        let mut moment = moment(100_000, 0);
        moment.price = 0.1;
        let chosen = planner().choose(&shape(), &moment, &costs()).expect("fits");
        assert!(chosen.plan.tier < Tier::CrossSmall, "{chosen:?}");
        // At this price nobody gets a cross-encoder.
        moment.priority = Priority::Critical;
        let chosen = planner().choose(&shape(), &moment, &costs()).expect("fits");
        assert_eq!(
            (chosen.plan.tier, chosen.reason),
            (Tier::Late, wire::Reason::Load)
        );
    }

    #[test]
    fn at_a_price_that_moves_a_default_request_to_the_cheapest_plan_a_critical_one_gets_the_best() {
        let planner = Planner::new(&[
            plan(Tier::Lexical, 0, 0.60),
            plan(Tier::CrossSmall, 32, 0.70),
        ]);
        let slope = planner.scale(&shape(), &costs()).slope;
        let choose = |priority, units: f64| {
            let moment = Moment {
                priority,
                price: units * slope,
                ..moment(100_000, 0)
            };
            let chosen = planner.choose(&shape(), &moment, &costs()).expect("fits");
            (chosen.plan.tier, chosen.reason)
        };
        use wire::Reason::{Best, Load, Priority as Class};
        let (cheapest, best) = (Tier::Lexical, Tier::CrossSmall);
        for (units, sheddable, default, critical) in [
            (0.0, (best, Best), (best, Best), (best, Best)),
            (0.2, (best, Best), (best, Best), (best, Best)),
            (0.5, (cheapest, Class), (best, Best), (best, Best)),
            (1.5, (cheapest, Load), (cheapest, Load), (best, Best)),
            (3.9, (cheapest, Load), (cheapest, Load), (best, Best)),
            (4.1, (cheapest, Load), (cheapest, Load), (cheapest, Load)),
        ] {
            assert_eq!(choose(Priority::Sheddable, units), sheddable, "{units}");
            assert_eq!(choose(Priority::Default, units), default, "{units}");
            assert_eq!(choose(Priority::Critical, units), critical, "{units}");
        }
    }

    #[test]
    fn a_missing_part_stays_the_reason_whatever_the_class() {
        for priority in Priority::ALL {
            let mut moment = moment(100_000, 0);
            moment.priority = priority;
            moment.parts.dense = false;
            let chosen = planner().choose(&shape(), &moment, &costs()).expect("fits");
            assert_eq!(chosen.reason, wire::Reason::Dependency);
        }
    }

    #[test]
    fn sheddable_requests_are_refused_first_and_critical_ones_last() {
        // Lexical takes 300 us of 98,000: a class is let in while its wait, with its margin, leaves them.
        let table = [
            (48_000, [true, true, true]),
            (49_000, [false, true, true]),
            (88_000, [false, true, true]),
            (89_000, [false, false, true]),
            (97_000, [false, false, true]),
            (98_000, [false, false, false]),
        ];
        for (delay_us, let_in) in table {
            for (priority, expected) in Priority::ALL.into_iter().zip(let_in) {
                let mut moment = moment(100_000, delay_us);
                moment.priority = priority;
                let chosen = planner().choose(&shape(), &moment, &costs());
                assert_eq!(chosen.is_ok(), expected, "{priority:?} behind {delay_us}");
                assert!(
                    expected || matches!(chosen, Err(Error::Overloaded { .. })),
                    "{chosen:?}"
                );
            }
        }
    }

    #[test]
    fn a_critical_request_let_in_last_gets_the_cheapest_plan_for_load() {
        let mut moment = moment(100_000, 89_500);
        moment.priority = Priority::Critical;
        let chosen = planner().choose(&shape(), &moment, &costs()).expect("fits");
        assert_eq!(
            (chosen.plan.tier, chosen.reason),
            (Tier::Lexical, wire::Reason::Load)
        );
    }

    /// A generator of numbers from 0 to 1, the same at each run.
    fn numbers() -> impl FnMut() -> f64 {
        let mut state = 42_u64;
        move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            #[allow(clippy::cast_precision_loss)]
            {
                ((state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "tens of thousands of plans: hours under Miri")]
    fn at_the_same_moment_a_higher_class_never_gets_a_plan_worth_less() {
        let mut next = numbers();
        let (mut differed, mut refused) = (0, 0);
        for round in 0..20_000 {
            let tiers = [
                (Tier::Lexical, 0),
                (Tier::Hybrid, 0),
                (Tier::Late, 200),
                (Tier::CrossSmall, 8),
                (Tier::CrossSmall, 32),
            ];
            let plans: Vec<PlanSpec> = tiers
                .into_iter()
                .map(|(tier, depth)| plan(tier, depth, next()))
                .collect();
            let planner = Planner::new(&plans);
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let mut moment = moment((next() * 100_000.0) as u64, (next() * 60_000.0) as u64);
            moment.price = next() * next() * 0.5;
            moment.parts.cross_small = next() > 0.2;
            moment.parts.dense = next() > 0.2;
            let mut last: Option<f64> = None;
            for priority in Priority::ALL {
                moment.priority = priority;
                let worth = planner
                    .choose(&shape(), &moment, &costs())
                    .ok()
                    .map(|chosen| chosen.plan.expected_ndcg);
                assert!(worth >= last, "round {round}: {last:?}, then {worth:?}");
                differed += u32::from(last.is_some() && worth > last);
                refused += u32::from(last.is_none() && worth.is_some());
                last = worth;
            }
        }
        assert!(differed > 1_000 && refused > 1_000, "{differed} {refused}");
    }

    /// What one class got in a simulated storm.
    #[derive(Debug, Default, Clone, Copy)]
    struct Served {
        asked: u32,
        refused: u32,
        worth: f64,
    }

    impl Served {
        fn refused_share(&self) -> f64 {
            f64::from(self.refused) / f64::from(self.asked)
        }
        fn mean_worth(&self) -> f64 {
            self.worth / f64::from(self.asked - self.refused)
        }
    }

    /// One worker, Poisson arrivals, of which a fifth is critical and a half sheddable, for ten seconds. Equal budgets: the
    /// nearest deadline is the oldest request's. By class, lowest first.
    fn storm(arrivals_per_s: f64, budget_us: u64) -> [Served; 3] {
        let (planner, costs, shape) = (planner(), costs(), shape());
        let scale = planner.scale(&shape, &costs);
        let price = price::Price::default();
        let mut next = numbers();
        let mut served = [Served::default(); 3];
        let (mut now_us, mut backlog_us) = (0.0_f64, 0.0_f64);
        while now_us < 10_000_000.0 {
            let gap_us = -next().ln() * 1e6 / arrivals_per_s;
            now_us += gap_us;
            backlog_us = (backlog_us - gap_us).max(0.0);
            let class = next();
            let priority = match class {
                _ if class < 0.5 => Priority::Sheddable,
                _ if class < 0.8 => Priority::Default,
                _ => Priority::Critical,
            };
            let one = &mut served[priority as usize];
            one.asked += 1;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let (at_us, delay_us) = (now_us as u64, backlog_us as u64);
            let moment = Moment {
                priority,
                price: price.at(at_us, delay_us, &scale, priority),
                ..moment(budget_us, delay_us)
            };
            match planner.choose(&shape, &moment, &costs) {
                Ok(chosen) => {
                    one.worth += chosen.plan.expected_ndcg;
                    backlog_us += chosen.estimate.mean_us;
                }
                Err(_) => one.refused += 1,
            }
        }
        served
    }

    #[test]
    #[cfg_attr(miri, ignore = "tens of thousands of plans: hours under Miri")]
    fn under_load_the_classes_fall_back_in_their_order_and_hardly_anybody_is_refused() {
        // 100 a second: the best plan for all would take 3.5 of the worker, for critical ones alone 0.7.
        let [sheddable, default, critical] = storm(100.0, 200_000);
        assert_eq!((default.refused, critical.refused), (0, 0));
        // Three best plans in a row fill half of a deadline now and then.
        assert!(sheddable.refused_share() < 0.05, "{sheddable:?}");
        assert!(critical.mean_worth() > default.mean_worth());
        assert!(default.mean_worth() > sheddable.mean_worth());
    }

    #[test]
    #[cfg_attr(miri, ignore = "tens of thousands of plans: hours under Miri")]
    fn in_a_storm_that_the_cheapest_plans_cannot_weather_the_classes_are_refused_in_their_order() {
        // 10,000 a second: critical ones alone take 0.6 of the worker, with default ones they take 1.5 of it.
        let [sheddable, default, critical] = storm(10_000.0, 50_000);
        assert!(critical.refused_share() < 0.001, "{critical:?}");
        assert!(default.refused_share() > 0.3, "{default:?}");
        assert!(sheddable.refused_share() > 0.95, "{sheddable:?}");
    }

    #[test]
    fn worth_never_exceeds_what_was_done() {
        let planner = planner();
        let table = [
            (Tier::CrossSmall, 32, 0.70),
            (Tier::CrossSmall, 31, 0.68),
            (Tier::CrossSmall, 7, 0.66),
            (Tier::Late, 100, 0.63),
            (Tier::Lexical, 0, 0.60),
        ];
        for (tier, depth, expected) in table {
            let worth = planner.worth(tier, depth, 100);
            assert!(
                (worth - expected / 0.70).abs() < 1e-12,
                "{tier:?} {depth}: {worth}"
            );
        }
    }

    #[test]
    fn a_bundle_without_a_lexical_plan_still_has_a_floor() {
        let planner = Planner::new(&[plan(Tier::Late, 200, 0.66)]);
        let mut moment = moment(50_000, 0);
        moment.parts.dense = false;
        let chosen = planner
            .choose(&shape(), &moment, &costs())
            .expect("lexical always works");
        assert_eq!(chosen.plan.tier, Tier::Lexical);
        assert_eq!(chosen.reason, wire::Reason::Dependency);
    }
}
