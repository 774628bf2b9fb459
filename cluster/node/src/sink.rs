//! Who takes what the lanes hand out.

use warren_cluster_core::inbox::Outputs;

/// Takes the outputs of a node's lanes.
pub trait Sink<E, T>: Send + Sync + 'static {
    /// Takes what a step brought and leaves it empty. Called under the lane's lock, in the order
    /// of the steps, by whichever thread stepped the lane (often one that called
    /// [`crate::Handle::submit`]): it must not block, and must not submit.
    fn outputs(&self, outputs: &mut Outputs<E, T>);

    /// The lane's lock is free again: the place to wake those for whom `outputs` left something.
    /// Not called for every `outputs`, but always after the last of a row. May submit.
    fn flush(&self) {}
}
