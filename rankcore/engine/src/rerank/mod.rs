//! Better orders for retrieved candidates: late interaction, cross-encoders, and the trees of the final order.

pub mod chunks;
pub mod cross;
pub mod explain;
pub mod forest;
pub mod late;
pub mod settled;
