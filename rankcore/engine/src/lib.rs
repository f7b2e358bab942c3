//! Muster's ranking core: retrieval, re-ranking in chunks, planner and scheduler.
//!
//! Data flows one way: `wire` request -> `plan` -> `retrieve` -> `rerank` -> `wire` response, driven by
//! `schedule`. Nothing here knows of Python.

pub mod account;
pub mod bundle;
pub mod encode;
pub mod engine;
pub mod error;
pub mod generation;
pub mod golden;
pub mod memory;
pub mod model;
pub mod plan;
pub mod recommend;
pub mod reply;
pub mod request;
pub mod rerank;
pub mod retrieve;
pub mod schedule;
pub mod signals;
pub mod taste;
pub mod text;
pub mod wire;
