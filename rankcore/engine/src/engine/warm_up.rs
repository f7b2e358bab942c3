//! The first requests of an engine, which nobody waits for: they fill its caches, and tell what each stage costs.

use std::sync::Arc;

use prost::Message;

use super::Engine;
use crate::bundle::{PlanSpec, Tier};
use crate::error::{Error, Result};
use crate::generation::Generation;
use crate::plan::cost::{Rate, Stage};
use crate::request::{Answer, Ask, Gauge};
use crate::wire;

/// Measured runs of each plan and query in a warm-up.
const WARM_UP_ROUNDS: usize = 2;

impl Engine {
    /// Runs every plan over the queries and takes the stage costs from what they took. Without a generation being served,
    /// only the models are warmed.
    ///
    /// # Errors
    /// Those of the stages.
    pub fn warm_up(&self, queries: &[String]) -> Result<()> {
        let bundle = &self.core.services.bundle;
        let Some(generation) = self.core.serving.load_full() else {
            for query in queries {
                bundle.encoder.query(query)?;
            }
            return Ok(());
        };
        let plans: Vec<PlanSpec> = self.core.services.planner.plans().to_vec();
        let gauge = Gauge::default();
        // One round to touch files, caches and sessions; what it took is not typical.
        for round in 0..=WARM_UP_ROUNDS {
            let gauge = (round > 0).then_some(&gauge);
            for query in queries {
                let request = wire::SearchRequest {
                    query: query.clone(),
                    facets: vec!["brand".to_owned()],
                    ..Default::default()
                };
                let Ok(ask) = Ask::search(&request.encode_to_vec()) else {
                    continue;
                };
                let mut found = Vec::new();
                for plan in &plans {
                    let Some(answer) = self.gauged(&generation, ask.clone(), plan, gauge)? else {
                        continue;
                    };
                    if let Ok(response) = wire::SearchResponse::decode(&*answer.bytes) {
                        found = response.results;
                    }
                }
                let request = wire::RerankRequest {
                    query: query.clone(),
                    product_ids: found.into_iter().map(|result| result.product_id).collect(),
                    ..Default::default()
                };
                let Ok(ask) = Ask::rerank(&request.encode_to_vec()) else {
                    continue;
                };
                for plan in plans.iter().filter(|plan| plan.tier <= Tier::Late) {
                    self.gauged(&generation, ask.clone(), plan, gauge)?;
                }
                // What a history costs does not depend on the plan that found the candidates.
                let request = wire::SearchRequest {
                    query: query.clone(),
                    history: liked(&request.product_ids),
                    ..Default::default()
                };
                if let (Ok(ask), Some(plan)) =
                    (Ask::search(&request.encode_to_vec()), plans.first())
                {
                    self.gauged(&generation, ask, plan, gauge)?;
                }
            }
        }
        let gauge = gauge.lock();
        for stage in Stage::ALL {
            let samples: Vec<(f64, f64)> = gauge
                .iter()
                .filter(|(measured, _, _)| *measured == stage)
                .map(|(_, units, us)| (*units, *us))
                .collect();
            if let Some(rate) = Rate::fit(&samples) {
                self.core.services.costs.calibrate(stage, rate);
            }
        }
        Ok(())
    }

    /// Runs one plan for [`Engine::warm_up`]; `None` where a part of it is missing.
    fn gauged(
        &self,
        generation: &Generation,
        ask: Ask,
        plan: &PlanSpec,
        gauge: Option<&Gauge>,
    ) -> Result<Option<Answer>> {
        if !self.core.parts(generation, &ask).allow(plan.tier) {
            return Ok(None);
        }
        let mut job = self.fixed(ask, plan.tier, plan.depth.max(1), plan.width)?;
        if let Some(gauge) = gauge {
            job.measure(Arc::clone(gauge));
        }
        match job.run() {
            Ok(answer) => Ok(Some(answer)),
            Err(Error::NotReady(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A history of these products.
fn liked(product_ids: &[String]) -> Vec<wire::HistoryItem> {
    product_ids
        .iter()
        .map(|product_id| wire::HistoryItem {
            product_id: product_id.clone(),
            ..Default::default()
        })
        .collect()
}
