//! Who takes what the lanes hand out.

use std::collections::VecDeque;

use warren_cluster_core::inbox::{Input, Outputs};
use warren_cluster_core::machine::Machine;

/// Takes the outputs of a node's lanes.
pub trait Sink<M: Machine, T>: Send + Sync + 'static {
    /// Takes what a step brought and leaves it empty. Called under the lane's lock, in the order
    /// of the steps, by whichever thread stepped the lane (often one that called
    /// [`crate::Handle::submit`]): it must not block, and must not submit.
    ///
    /// What it adds to `follow_ups` the lane takes before anything that is submitted from here
    /// on: the place for what others must not overtake who see the outputs' consequences.
    fn outputs(
        &self,
        outputs: &mut Outputs<M::Effect, T>,
        follow_ups: &mut VecDeque<Input<M::Input, T>>,
    );

    /// The lane's lock is free again: the place to wake those for whom `outputs` left something.
    /// Not called for every `outputs`, but always after the last of a row. May submit.
    fn flush(&self) {}
}
