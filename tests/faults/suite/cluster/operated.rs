//! A cluster in the hands of operators: all that they do to it by the command line, from the
//! nodes that join to those that leave, while clients of the others go on.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::runtime::Runtime;

use super::load::Load;
use super::operator::{Events, Operator, Shards};
use super::{FAILOVER_LIMIT, SETTLE_LIMIT, SHARDS};
use crate::Context;
use crate::alarms::get;
use crate::broker::{Node, Running};
use crate::client::Client;
use crate::lifecycle::must_be_forced;
use crate::{refusals, system};

/// Nodes from the beginning; the load's clients are on the first two of them.
const FIRST: usize = 3;
const LOADED: usize = 2;
const QUEUES: usize = 12;
/// For a health check to become what it is to be.
const HEALTH_LIMIT: Duration = Duration::from_secs(30);
const CRITICAL: &str = "/api/health/checks/node-is-quorum-critical";
const READY: &str = "/api/health/checks/ready-to-serve-clients";

/// A member of the cluster.
struct Member {
    id: u64,
    name: String,
    node: Node,
    running: Option<Running>,
    /// Whoever watches at this node what happens.
    events: Option<Events>,
}

/// Nodes on this machine's loopback, in the order of their joining.
struct Site {
    /// The first one has the administrator's certificate.
    members: Vec<Member>,
}

pub(crate) fn cluster_is_operated(context: &Context, runtime: &Runtime) -> Result<()> {
    let mut seed = context.seed("cluster_is_operated");
    let mut clock = Instant::now();
    let mut took = |what: &str| {
        println!("{what}: {:.1} s", clock.elapsed().as_secs_f64());
        clock = Instant::now();
    };
    let mut site = Site::start(context)?;
    took("three nodes");
    let mut load = runtime.block_on(site.load("operated", &[0, 1]))?;
    site.add(context, "offered")?;
    site.join(context, "token")?;
    site.settle()?;
    took("two more by `node add` and by a token");
    let drained = LOADED + seed.below(site.members.len() - LOADED);
    runtime.block_on(site.drain_and_resume(drained))?;
    took("drain and resume");
    site.settle()?;
    took("all evened out again");
    site.move_a_replica()?;
    site.transfer_a_lead()?;
    site.foretell()?;
    took("move, transfer, foretell");
    runtime.block_on(load.goes_on(Instant::now(), FAILOVER_LIMIT))?;
    while site.members.len() > FIRST {
        let leaves = LOADED + seed.below(site.members.len() - LOADED);
        runtime.block_on(site.remove(leaves))?;
        took("remove");
    }
    // Beside each node that is restarted there must be load, and all are: so it moves.
    runtime.block_on(site.restart(2, &mut load))?;
    took("restart");
    let mut confirmed = over(runtime, load)?;
    for (at, others) in [(1, [0, 2]), (0, [1, 2])] {
        let mut load = runtime.block_on(site.load("rolling", &others))?;
        runtime.block_on(site.restart(at, &mut load))?;
        confirmed += over(runtime, load)?;
        took("restart");
    }
    println!("{confirmed} messages confirmed");
    site.stop()
}

/// Ends a load beside which nothing may have happened.
fn over(runtime: &Runtime, mut load: Load) -> Result<u64> {
    runtime.block_on(load.goes_on(Instant::now(), FAILOVER_LIMIT))?;
    let tally = runtime.block_on(load.finish())?;
    ensure!(tally.refused == 0, "{} were refused", tally.refused);
    ensure!(tally.redelivered == 0, "redelivered: {}", tally.redelivered);
    Ok(tally.confirmed)
}

/// A node of its own, which is told nothing of others yet.
fn blank(context: &Context, name: &str) -> Result<Node> {
    let mut node = Node::new(context, &format!("operated-{name}"))?;
    node.set("WARREN_NODE_NAME", name);
    node.set("WARREN_CLUSTER_SHARDS", SHARDS.to_string());
    Ok(node)
}

/// Joining.
impl Site {
    fn start(context: &Context) -> Result<Self> {
        let mut first = blank(context, "first")?;
        let token = first.folder().join("token").to_string_lossy().into_owned();
        first.add_flags(&["--bootstrap-token-file", &token]);
        let running = first.start()?;
        let mut site = Self {
            members: Vec::new(),
        };
        site.take("first", first, running)?;
        for name in ["second", "third"] {
            let mut node = blank(context, name)?;
            let to = site.members[0].node.address("cluster");
            node.add_flags(&["--bootstrap-token-file", &token, "--join", &to]);
            let running = node.start()?;
            site.take(name, node, running)?;
        }
        site.settle()?;
        Ok(site)
    }

    /// Takes up a node that has joined.
    fn take(&mut self, name: &str, node: Node, running: Running) -> Result<()> {
        let certificate = self.members.first().map_or(&node, |first| &first.node);
        let operator = Operator::new(certificate, &node);
        let status = operator.json(&["cluster", "status"])?;
        let id = status["answered_by"].as_u64();
        let id = id.context("the status does not say whose it is")?;
        self.members.push(Member {
            id,
            name: name.to_owned(),
            events: Some(operator.watches()?),
            node,
            running: Some(running),
        });
        Ok(())
    }

    /// A node that waits is let in by its fingerprint, and by no other.
    fn add(&mut self, context: &Context, name: &str) -> Result<()> {
        let mut node = blank(context, name)?;
        node.add_flags(&["--await-join"]);
        let starting = node.spawn()?;
        let (line, _) = starting.line("waiting", &node)?;
        let word = |name: &str| {
            let mut words = line.split(' ');
            words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        };
        let address = word("cluster").context("does not say where it waits")?;
        let fingerprint = word("fingerprint").context("does not say its fingerprint")?;
        ensure!(address == node.address("cluster"), "it waits at {address}");
        let operator = self.asks(0);
        let add = |fingerprint: &str| {
            ["node", "add", address, "--fingerprint", fingerprint].map(str::to_owned)
        };
        let another: String = fingerprint.chars().rev().collect();
        for wrong in [&another, "no fingerprint"] {
            let words = add(wrong);
            let reason = operator.is_refused(&words.each_ref().map(String::as_str))?;
            println!("refused: {}", reason.trim());
        }
        let status = operator.json(&["cluster", "status"])?;
        let members = status["nodes"].as_array().map(Vec::len);
        ensure!(members == Some(FIRST), "a stranger is in: {status}");
        let words = add(fingerprint);
        let said = operator.does(&words.each_ref().map(String::as_str))?;
        ensure!(
            said.out.contains(&format!("({name}) has joined")),
            "{}",
            said.out
        );
        self.take_told(name, starting.wait(&node)?, node)
    }

    /// A node joins with a token that an operator had made.
    fn join(&mut self, context: &Context, name: &str) -> Result<()> {
        let token = self.asks(1).does(&["cluster", "token"])?.out;
        let mut node = blank(context, name)?;
        let to = self.members[1].node.address("cluster");
        node.add_flags(&["--join", &to, "--token", token.trim()]);
        let running = node.start()?;
        self.take_told(name, running, node)?;
        // It was for one node.
        let mut late = blank(context, "late")?;
        late.add_flags(&["--join", &to, "--token", token.trim()]);
        let refused = refusals::run(&mut late.command())?;
        let reason = String::from_utf8_lossy(&refused.stderr);
        ensure!(
            refused.status.code() == Some(1),
            "{}: {reason}",
            refused.status
        );
        ensure!(reason.contains("cannot join the cluster"), "{reason}");
        Ok(())
    }

    /// Takes up a node of whose joining those must hear who watch the others.
    fn take_told(&mut self, name: &str, running: Running, node: Node) -> Result<()> {
        self.take(name, node, running)?;
        let id = self.members.last().context("it is taken up")?.id;
        for at in 0..FIRST {
            let text = format!("node {id} ({name}) has joined");
            self.must_tell(at, 0, "node-joined", &text)?;
            self.must_tell(at, 0, "node-up", &format!("node {id} is reached"))?;
        }
        Ok(())
    }
}

/// What all of it is done with.
impl Site {
    /// An operator who asks the node in this place.
    fn asks(&self, at: usize) -> Operator {
        Operator::new(&self.members[0].node, &self.members[at].node)
    }

    /// Waits until every node is there, and all is where it belongs.
    fn settle(&self) -> Result<()> {
        let operator = self.asks(0);
        let mut last = None;
        let settled = system::until("the cluster to be settled", SETTLE_LIMIT, || {
            let status = operator.json(&["cluster", "status"])?;
            let nodes = status["nodes"].as_array().context("has no nodes")?;
            let all = nodes.len() == self.members.len();
            let there = all && nodes.iter().all(|node| node["reachable"] == true);
            let is_settled = there && status["settled"] == true;
            last = Some(status);
            Ok(is_settled)
        });
        settled.with_context(|| format!("{last:?}"))
    }

    async fn load(&self, name: &str, at: &[usize]) -> Result<Load> {
        let uris: Vec<_> = at.iter().map(|at| self.members[*at].node.uri()).collect();
        let name = super::unique(name);
        let mut load = Load::start(&name, QUEUES, &uris, &uris).await?;
        load.goes_on(Instant::now(), FAILOVER_LIMIT).await?;
        Ok(load)
    }

    /// The status of a health check of a node; nothing where it does not answer.
    fn health(&self, at: usize, check: &str) -> Option<u16> {
        let answer = get(&self.members[at].node.address("http"), check);
        answer.ok().map(|(status, _)| status)
    }

    fn health_becomes(&self, at: usize, check: &str, wanted: u16) -> Result<()> {
        let what = format!("{wanted} from {check} of node {}", self.members[at].id);
        system::until(&what, HEALTH_LIMIT, || {
            Ok(self.health(at, check) == Some(wanted))
        })
    }

    fn stop(self) -> Result<()> {
        for member in self.members {
            let mut running = member.running.context("it runs")?;
            running.must_run()?;
            running.stop()?;
        }
        Ok(())
    }

    fn events(&self, at: usize) -> Result<&Events> {
        let events = self.members[at].events.as_ref();
        events.context("nobody watches there")
    }

    fn must_tell(&self, at: usize, mark: usize, kind: &str, words: &str) -> Result<()> {
        let told = self.events(at)?.must_tell(mark, kind, words);
        told.with_context(|| format!("at node {}", self.members[at].id))
    }

    /// How much was told at each node so far.
    fn marks(&self) -> Result<Vec<usize>> {
        let all = 0..self.members.len();
        all.map(|at| Ok(self.events(at)?.mark())).collect()
    }

    /// The place of a node.
    fn place(&self, id: u64) -> Result<usize> {
        let at = self.members.iter().position(|member| member.id == id);
        at.with_context(|| format!("node {id} is no member"))
    }
}

/// Nodes that rest, and shards that move.
impl Site {
    async fn drain_and_resume(&self, at: usize) -> Result<()> {
        let (id, operator) = (self.members[at].id, self.asks(0));
        let (name, uri) = (id.to_string(), self.members[at].node.uri());
        let before = operator.shards()?;
        ensure!(
            leads(&before, id) > 0,
            "node {id} leads nothing: {before:?}"
        );
        let marks = self.marks()?;
        let guest = Client::connect(&uri).await?;
        let mut told = Box::pin(guest.connection.events_listener());
        operator.does_in_steps(&["node", "drain", &name])?;
        let after = operator.shards()?;
        ensure!(leads(&after, id) == 0, "it leads: {after:?}");
        must_be_forced(&mut told).await?;
        must_send_away(&self.members[at].node.address("amqp"))?;
        self.health_becomes(at, READY, 503)?;
        self.must_be(at, "draining")?;
        self.must_tell(0, marks[0], "node-state", "drains")?;
        self.new_leaders_must_tell(id, &before, &marks)?;
        operator.does_in_steps(&["node", "drain", &name])?;

        let mark = self.events(0)?.mark();
        for _ in 0..2 {
            operator.does(&["node", "resume", &name])?;
            self.must_be(at, "active")?;
        }
        self.must_tell(0, mark, "node-state", "is active again")?;
        self.health_becomes(at, READY, 200)?;
        Client::connect(&uri).await?.close().await
    }

    /// Whoever took over what node `id` led has told so, and those heard it who watch the first
    /// node.
    fn new_leaders_must_tell(&self, id: u64, before: &Shards, marks: &[usize]) -> Result<()> {
        for (shard, _) in before.iter().filter(|(_, it)| it.leader == id) {
            let mut leader = 0;
            system::until("a shard to be led", HEALTH_LIMIT, || {
                leader = self.asks(0).shards()?[shard].leader;
                Ok(leader != 0)
            })?;
            let text = format!("node {leader}: this node leads shard {shard} from");
            for at in [self.place(leader)?, 0] {
                self.must_tell(at, marks[at], "leader", &text)?;
            }
        }
        Ok(())
    }

    fn must_be(&self, at: usize, state: &str) -> Result<()> {
        let status = self.asks(0).status_of(self.members[at].id)?;
        let status = status.context("it is no member")?;
        ensure!(status["state"] == state, "not {state}: {status}");
        Ok(())
    }

    /// From a node that has more replicas than another: it would be undone else.
    fn move_a_replica(&self) -> Result<()> {
        let operator = self.asks(1);
        let shards = operator.shards()?;
        let queues = shards.iter().filter(|(shard, _)| **shard != 0);
        let moves = queues.flat_map(|(shard, it)| {
            let to = self.ids().filter(|to| !it.voters.contains(to));
            let ways = to.flat_map(|to| it.voters.iter().map(move |from| (*from, to)));
            ways.map(|(from, to)| (*shard, from, to))
        });
        let gain = |(_, from, to): &(u64, u64, u64)| {
            replicas(&shards, *from).saturating_sub(replicas(&shards, *to))
        };
        let best = moves.max_by_key(gain).filter(|it| gain(it) > 0);
        let (shard, from, to) = best.with_context(|| format!("no way: {shards:?}"))?;
        println!("shard {shard} from node {from} to node {to}");
        let words = [shard, from, to].map(|it| it.to_string());
        let words = [
            "shard", "move", &words[0], "--from", &words[1], "--to", &words[2],
        ];
        let is_there = |shards: Shards| {
            let voters = &shards[&shard].voters;
            let is_there = voters.contains(&to) && !voters.contains(&from);
            ensure!(is_there, "shard {shard} is on {voters:?}");
            Ok(())
        };
        for _ in 0..2 {
            operator.does_in_steps(&words)?;
            is_there(operator.shards()?)?;
        }
        self.settle()?;
        is_there(operator.shards()?).context("once all is settled")
    }

    /// To a node that leads less than the one that has the lead: it would be undone else.
    fn transfer_a_lead(&self) -> Result<()> {
        let operator = self.asks(1);
        let shards = operator.shards()?;
        let ways = shards.iter().flat_map(|(shard, it)| {
            let to = it.voters.iter().filter(|to| **to != it.leader);
            to.map(|to| (*shard, it.leader, *to))
        });
        let gain = |(_, from, to): &(u64, u64, u64)| {
            leads(&shards, *from).saturating_sub(leads(&shards, *to))
        };
        let best = ways.max_by_key(gain).filter(|it| gain(it) > 0);
        let (shard, from, to) = best.with_context(|| format!("no way: {shards:?}"))?;
        println!("the lead of shard {shard} from node {from} to node {to}");
        let (at, marks) = (self.place(to)?, self.marks()?);
        let words = [shard, to].map(|it| it.to_string());
        let words = ["shard", "transfer", &words[0], "--to", &words[1]];
        let is_there = |shards: Shards| {
            let leader = shards[&shard].leader;
            ensure!(leader == to, "node {leader} leads shard {shard}");
            Ok(())
        };
        for _ in 0..2 {
            operator.does_in_steps(&words)?;
            is_there(operator.shards()?)?;
        }
        let text = format!("leads shard {shard} from");
        self.must_tell(at, marks[at], "leader", &text)?;
        self.settle()?;
        is_there(operator.shards()?).context("once all is settled")
    }

    /// What operators are told that nothing comes of.
    fn foretell(&self) -> Result<()> {
        let operator = self.asks(LOADED);
        let before = operator.shards()?;
        let plan = operator.does(&["cluster", "rebalance", "--dry-run"])?.out;
        ensure!(plan.trim() == "all is where it belongs", "{plan}");
        let after = operator.shards()?;
        ensure!(before == after, "{before:?} became {after:?}");
        for id in self.ids() {
            let said = operator.does(&["cluster", "loss", &id.to_string()])?.out;
            ensure!(said.trim() == "every shard keeps its majority", "{said}");
        }
        let pair = before.values().find(|shard| shard.voters.len() == 3);
        let pair = pair.context("no shard has three voters")?.voters[..2].iter();
        let pair: Vec<_> = pair.map(ToString::to_string).collect();
        let said = operator.is_told_no(&["cluster", "loss", &pair[0], &pair[1]])?;
        ensure!(said.contains("would lose their majority"), "{said}");
        Ok(())
    }

    fn ids(&self) -> impl Iterator<Item = u64> {
        self.members.iter().map(|member| member.id)
    }
}

/// Shards that a node leads.
fn leads(shards: &Shards, id: u64) -> usize {
    shards.values().filter(|it| it.leader == id).count()
}

/// Shards that a node votes in.
fn replicas(shards: &Shards, id: u64) -> usize {
    shards.values().filter(|it| it.voters.contains(&id)).count()
}

/// Nodes that go, for ever or for a moment.
impl Site {
    async fn remove(&mut self, at: usize) -> Result<()> {
        let id = self.members[at].id;
        let number = id.to_string();
        let operator = self.asks(0);
        ensure!(
            replicas(&operator.shards()?, id) > 1,
            "node {id} has nothing"
        );
        let guest = Client::connect(&self.members[at].node.uri()).await?;
        let mut told = Box::pin(guest.connection.events_listener());
        let said = operator.does_in_steps(&["node", "remove", &number])?;
        let wanted = format!("node {id} has left the cluster");
        ensure!(said.out.trim() == wanted, "{}", said.out);
        let Member {
            name,
            node,
            running,
            events,
            ..
        } = self.members.remove(at);
        let status = running.context("it runs")?.wait()?;
        ensure!(status.code() == Some(0), "it ended with {status}");
        must_be_forced(&mut told).await?;
        events.context("somebody watches there")?.must_end()?;
        let shards = operator.shards()?;
        ensure!(replicas(&shards, id) == 0, "it has some: {shards:?}");
        let left = operator.status_of(id)?;
        ensure!(left.is_none(), "it is a member: {left:?}");
        for at in 0..self.members.len() {
            let text = format!("node {id} ({name}) has left");
            self.must_tell(at, 0, "node-removed", &text)?;
        }
        operator.does_in_steps(&["node", "remove", &number])?;
        must_not_start(&node)?;
        self.settle()
    }

    /// Stops a node as its service manager does, and starts it again once that was noticed.
    async fn restart(&mut self, at: usize, load: &mut Load) -> Result<()> {
        let others: Vec<_> = (0..self.members.len()).filter(|it| *it != at).collect();
        self.must_be_fit()?;
        let (id, marks) = (self.members[at].id, self.marks()?);
        let guest = Client::connect(&self.members[at].node.uri()).await?;
        let mut told = Box::pin(guest.connection.events_listener());
        let member = &mut self.members[at];
        let running = member.running.take().context("it runs")?;
        running.signal(libc::SIGTERM)?;
        must_be_forced(&mut told).await?;
        let status = running.wait()?;
        ensure!(status.code() == Some(0), "it ended with {status}");
        let events = member.events.take();
        events.context("somebody watches there")?.must_end()?;
        let since = Instant::now();
        for other in &others {
            self.health_becomes(*other, CRITICAL, 503)?;
            self.health_becomes(*other, READY, 200)?;
            self.must_tell(
                *other,
                marks[*other],
                "node-down",
                &format!("node {id} is not"),
            )?;
        }
        load.goes_on(since, FAILOVER_LIMIT).await?;

        let marks = others.iter().map(|it| Ok(self.events(*it)?.mark()));
        let marks = marks.collect::<Result<Vec<_>>>()?;
        self.members[at].running = Some(self.members[at].node.start()?);
        self.members[at].events = Some(self.asks(at).watches()?);
        for (other, mark) in others.iter().zip(marks) {
            self.must_tell(*other, mark, "node-up", &format!("node {id} is reached"))?;
        }
        self.must_be_fit()?;
        load.goes_on(Instant::now(), FAILOVER_LIMIT).await?;
        Client::connect(&self.members[at].node.uri())
            .await?
            .close()
            .await
    }

    /// Every node serves, and each may be stopped.
    fn must_be_fit(&self) -> Result<()> {
        for at in 0..self.members.len() {
            self.health_becomes(at, READY, 200)?;
            self.health_becomes(at, CRITICAL, 200)?;
        }
        Ok(())
    }
}

/// Whoever comes now is not let in, or sees the connection end before it may log in. Not by lapin:
/// that may wait for ever where it ends so early.
fn must_send_away(address: &str) -> Result<()> {
    const TUNE: [u8; 4] = [0, 10, 0, 30];
    let Ok(mut peer) = TcpStream::connect(address) else {
        return Ok(());
    };
    peer.set_read_timeout(Some(HEALTH_LIMIT))?;
    // The end may come before it is said what is wanted, or answered.
    let _ = peer.write_all(b"AMQP\x00\x00\x09\x01");
    let mut answer = Vec::new();
    let ended = peer.read_to_end(&mut answer);
    let ended = ended.or_else(|error| match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Ok(0),
        _ => Err(error),
    });
    ended.context("a node in maintenance leaves whoever comes waiting")?;
    let is_in = answer.windows(TUNE.len()).any(|part| part == TUNE);
    ensure!(!is_in, "a node in maintenance lets clients in");
    Ok(())
}

/// A node that was removed is told so when it is started again, and does not serve.
fn must_not_start(node: &Node) -> Result<()> {
    let output = refusals::run(&mut node.command())?;
    let (out, err) = (&output.stdout, &output.stderr);
    let (out, err) = (String::from_utf8_lossy(out), String::from_utf8_lossy(err));
    ensure!(output.status.code() == Some(1), "{}: {err}", output.status);
    let last = err.lines().last().unwrap_or_default();
    ensure!(last.contains("was removed from its cluster"), "{err}");
    ensure!(!out.contains("ready "), "it was ready: {out}");
    Ok(())
}
