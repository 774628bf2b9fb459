//! What goes wrong: connections, processes, power, disks, clocks. And how it comes back.

use warren_cluster_core::inbox::Input;

use super::{Link, World};
use crate::checker::Checker;
use crate::client::Role;
use crate::node::{Life, Node, number};

/// Room on the disk that is short of it, in bytes.
const SHORT_BYTES: u64 = 1000;
/// Alarms have a reason.
const ALARM: &str = "low on memory";

impl World {
    /// Perhaps a fault.
    pub(super) fn strike(&mut self) {
        let faults = self.temper.faults;
        let mut dice = self.rng.below(100_000);
        let mut falls_on = |often: u64| {
            let hit = dice < often;
            dice = dice.wrapping_sub(often);
            hit
        };
        if falls_on(faults.crash) {
            self.crash();
        } else if falls_on(faults.kill) {
            self.kill();
        } else if falls_on(faults.stop) {
            self.begin_stop();
        } else if falls_on(faults.cut) {
            let at = self.any_place();
            self.cut(at);
        } else if falls_on(faults.stall) {
            self.stall();
        } else if falls_on(faults.alarm) {
            self.alarm();
        } else if falls_on(faults.short) {
            self.run_short();
        } else if falls_on(faults.jump) {
            let millis = self.rng.between(1, 2000);
            self.trace.note("jump of the clock", 0, millis);
            self.pass(millis * 1000);
        }
        self.go_on_stopping();
    }

    /// Faults that last end.
    pub(super) fn end_faults(&mut self) {
        if self.stalled_until == self.step {
            self.disk.set_stalled(false);
        }
        if self.short_until == self.step {
            self.push(Input::FreeDisk { bytes: u64::MAX });
        }
        if self.alarm_until == self.step
            && let Some(node) = &mut self.node
        {
            node.alarm(None);
        }
    }

    fn stall(&mut self) {
        self.trace.note("disk stalls", 0, 0);
        self.disk.set_stalled(true);
        self.stalled_until = self.step + self.rng.between(1, 300);
    }

    fn alarm(&mut self) {
        self.trace.note("alarm", 0, 0);
        if let Some(node) = &mut self.node {
            node.alarm(Some(ALARM));
            self.alarm_until = self.step + self.rng.between(1, 300);
        }
    }

    fn run_short(&mut self) {
        self.trace.note("disk is short of room", 0, 0);
        let bytes = SHORT_BYTES;
        self.push(Input::FreeDisk { bytes });
        self.short_until = self.step + self.rng.between(1, 300);
    }

    /// A connection breaks; the client knows, the node does not yet.
    pub(super) fn cut(&mut self, at: usize) {
        let place = &mut self.places[at];
        let Some(link) = place.link.take() else {
            return;
        };
        self.trace.note("cut", number(link.session), 0);
        self.figures.cuts += 1;
        lose_unacknowledged(&link, &mut self.checker);
        self.broken.push(link);
    }

    /// The node notices that one of the broken connections is gone.
    pub(super) fn notice_break(&mut self) {
        if self.broken.is_empty() {
            return;
        }
        let at = self.rng.below(self.broken.len() as u64) as usize;
        let link = &mut self.broken[at];
        let Some(node) = &mut self.node else {
            return;
        };
        if link.noticed {
            return;
        }
        self.trace.note("break noticed", number(link.session), 0);
        node.disconnect(link.session, self.now.mono);
        // It was sent messages until now.
        lose_unacknowledged(link, &mut self.checker);
        link.noticed = true;
        if !node.has_session(link.session) {
            self.broken.swap_remove(at);
        }
    }

    /// The node notices that all of the broken connections are gone.
    pub(super) fn notice_all(&mut self) {
        while self.node.is_some() && self.broken.iter().any(|link| !link.noticed) {
            self.notice_break();
        }
    }

    fn crash(&mut self) {
        if self.node.is_some() {
            self.trace.note("power goes", 0, 0);
            self.figures.crashes += 1;
            self.die();
            self.disk.crash();
        }
    }

    fn kill(&mut self) {
        if self.node.is_some() {
            self.trace.note("process is killed", 0, 0);
            self.figures.kills += 1;
            self.die();
            self.disk.kill();
        }
    }

    fn die(&mut self) {
        self.remember(false);
        self.disk.set_stalled(false);
        self.cut_all();
        self.checker.node_died();
    }

    fn cut_all(&mut self) {
        for at in 0..self.places.len() {
            self.cut(at);
        }
        for link in self.broken.drain(..) {
            lose_unacknowledged(&link, &mut self.checker);
        }
    }

    /// Clients are told to go.
    pub(super) fn begin_stop(&mut self) {
        if let Some(node) = &mut self.node
            && node.life() == Life::Serving
        {
            self.trace.note("stop", 0, 0);
            node.close();
        }
    }

    /// The next part of a stop, some time after the one before.
    pub(super) fn go_on_stopping(&mut self) {
        let is_closing = |node: &Node| node.life() == Life::Closing;
        if self.node.as_ref().is_some_and(is_closing) && self.rng.permille(20) {
            self.stop_lane();
        }
    }

    pub(super) fn stop_lane(&mut self) {
        self.trace.note("lane stops", 0, 0);
        self.cut_all();
        if let Some(node) = &mut self.node {
            node.stop();
        }
    }

    /// The node has ended in order.
    pub(super) fn stopped(&mut self) {
        self.trace.note("stopped", 0, 0);
        self.figures.stops += 1;
        self.remember(true);
        self.disk.kill();
        self.checker.node_stopped();
    }

    /// The node is over; what it held is what the next one has to find.
    fn remember(&mut self, in_order: bool) {
        if let Some(node) = self.node.take() {
            self.before = Some((node.states(), in_order));
        }
    }

    /// Starts the node on what its disk holds.
    pub(super) fn start(&mut self) {
        let incarnation = self.rng.draw();
        let started = Node::start(self.temper.node.clone(), &mut self.disk, incarnation);
        match started {
            Ok(node) => {
                if let Some((before, in_order)) = self.before.take()
                    && let Some(text) = before.difference(&node.states(), in_order)
                {
                    self.fail("replicas-agree", &text);
                }
                self.trace.note("start", node.figures().log_bytes, 0);
                self.node = Some(node);
            }
            Err(error) => self.fail("recovery", &error.to_string()),
        }
    }
}

/// What was on its way to a consumer that does not acknowledge is lost with its connection.
fn lose_unacknowledged(link: &Link, checker: &mut Checker) {
    if let Some(consumer) = link.client.consumer() {
        checker.consumer_gone(consumer);
    }
    if let Role::Consumer {
        queue,
        auto_ack: true,
        ..
    } = link.client.role()
    {
        checker.auto_ack_consumer_lost(queue.number);
    }
}
