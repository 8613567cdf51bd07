//! Tests: recorded traces of the original, and naive models driven by chance.

mod model;

mod broker;

mod queue;

mod quirks;

mod recorded;

mod disciplines;

mod aim;
mod any;

mod fair;

mod regulator;
