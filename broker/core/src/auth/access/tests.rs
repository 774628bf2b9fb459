//! Patterns, refusals, and what sessions remember of them.

use warren_cluster_core::rows::{Change, RowKey, Version};

use super::*;
use crate::auth::{LoginError, log_in, password};
use crate::definitions::{
    HashingAlgorithm, PermissionKey, PermissionRow, Store, TopicPermissionKey, TopicPermissionRow,
    UserKey, UserRow,
};

struct World {
    topology: Topology,
    version: u64,
}

impl World {
    fn new() -> Self {
        Self {
            topology: Topology::new(1),
            version: 0,
        }
    }

    fn change(&mut self, row: RowKey, value: Option<bytes::Bytes>) {
        self.version += 1;
        let version = Version(self.version);
        let change = Change {
            row,
            value,
            version,
        };
        let applied = self.topology.apply(Store::Replicated, &[change]);
        assert_eq!(applied, Ok(()));
    }

    fn permit(&mut self, user: &str, patterns: Option<[&str; 3]>) {
        let row = patterns.map(|[configure, write, read]| {
            let row = PermissionRow {
                configure: configure.to_owned(),
                write: write.to_owned(),
                read: read.to_owned(),
            };
            row.encode()
        });
        let vhost = "/";
        self.change(PermissionKey { user, vhost }.encode(), row);
    }
}

#[test]
fn patterns() {
    let cases = [
        ("", "", true),
        ("", "a", false),
        (".*", "anything", true),
        ("b", "abc", true),
        ("^b", "abc", false),
        ("^$", "", true),
        ("^amq\\.", "amq.topic", true),
        ("^(a|b)$", "b", true),
        ("(", "(", false),
        ("(?=a)", "a", false),
        ("(?i)ABC", "abc", true),
        ("^[äö]$", "ö", true),
        ("^\\w+$", "a_1", true),
        ("ä", "Bär", true),
    ];
    for (source, name, matches) in cases {
        let pattern = Pattern::new(source);
        assert_eq!(
            pattern.matches(name.as_bytes()),
            matches,
            "{source:?} {name:?}"
        );
    }
    assert!(Pattern::new("^a.b$").matches(b"a\xffb"));
}

#[test]
fn refusals_name_the_resource() {
    let mut world = World::new();
    world.permit("u", Some(["^q", "", ".*"]));
    let mut cache = AccessCache::new("u".into(), "/".into());
    let mut refused = |access, resource| {
        let once = check(&world.topology, "u", "/", access, resource);
        let cached = cache.check(&world.topology, access, resource);
        assert_eq!(once, cached);
        cached.err().map(|error| error.text)
    };
    assert_eq!(refused(Access::Configure, Resource::Queue(b"q1")), None);
    assert_eq!(refused(Access::Configure, Resource::Queue(b"q1")), None);
    assert_eq!(refused(Access::Read, Resource::Exchange(b"")), None);
    let text = "write access to queue 'q1' in vhost '/' refused for user 'u'";
    let found = refused(Access::Write, Resource::Queue(b"q1"));
    assert_eq!(found.as_deref(), Some(text));
    let text = "configure access to exchange 'amq.default' in vhost '/' refused for user 'u'";
    let found = refused(Access::Configure, Resource::Exchange(b""));
    assert_eq!(found.as_deref(), Some(text));
}

#[test]
fn sessions_notice_changes() {
    let mut world = World::new();
    world.permit("u", Some(["x", "^[a-c]$", "x"]));
    let mut cache = AccessCache::new("u".into(), "/".into());
    assert!(cache.may_enter(&world.topology));
    let mut write = |world: &World, name: &str| {
        let resource = Resource::Queue(name.as_bytes());
        cache
            .check(&world.topology, Access::Write, resource)
            .is_ok()
    };
    assert!(write(&world, "a"));
    world.permit("somebody", Some(["", "", ""]));
    assert!(write(&world, "a"));
    world.permit("u", Some(["x", "^[b-c]$", "x"]));
    assert!(!write(&world, "a"));
    assert!(write(&world, "b"));
    for round in 0..3 * REMEMBERED_MAX {
        assert!(write(&world, "b"), "{round}");
        assert!(write(&world, "c"), "{round}");
    }
    world.permit("u", None);
    assert!(!write(&world, "b"));
    world.permit("u", Some(["", ".*", ""]));
    assert!(write(&world, "b"));
    let mut stranger = AccessCache::new("stranger".into(), "/".into());
    assert!(!stranger.may_enter(&world.topology));
}

#[test]
fn topic_permissions() {
    let mut world = World::new();
    world.permit("u.v", Some([".*", ".*", ".*"]));
    let key = TopicPermissionKey {
        user: "u.v",
        vhost: "/",
        exchange: b"amq.topic",
    };
    let row = TopicPermissionRow {
        write: "^{username}\\.".to_owned(),
        read: "^{vhost}$".to_owned(),
    };
    world.change(key.encode(), Some(row.encode()));
    let mut cache = AccessCache::new("u.v".into(), "/".into());
    let mut check = |world: &World, access, exchange: &str, key: &str| {
        let (exchange, key) = (exchange.as_bytes(), key.as_bytes());
        let checked = cache.check_topic(&world.topology, access, exchange, key);
        checked.map_err(|error| error.text)
    };
    assert_eq!(check(&world, Access::Write, "amq.topic", "u.v.a"), Ok(()));
    assert_eq!(check(&world, Access::Write, "other", "a"), Ok(()));
    assert_eq!(check(&world, Access::Read, "amq.topic", "/"), Ok(()));
    let text = "write access to topic 'uxv.a' in exchange 'amq.topic' in vhost '/' \
                refused for user 'u.v'";
    let found = check(&world, Access::Write, "amq.topic", "uxv.a");
    assert_eq!(found, Err(text.to_owned()));
    world.change(key.encode(), None);
    assert_eq!(check(&world, Access::Write, "amq.topic", "uxv.a"), Ok(()));
}

#[test]
fn logging_in() {
    let mut world = World::new();
    let hash = password::hash(HashingAlgorithm::Sha256, [1, 2, 3, 4], b"secret");
    let row = UserRow {
        password_hash: hash.expect("SHA-256 is supported"),
        ..UserRow::default()
    };
    world.change(UserKey { name: "guest" }.encode(), Some(row.encode()));
    let attempt = |user: &[u8], password: &[u8], from_loopback| {
        let loopback_users = ["guest".to_owned()];
        let found = log_in(
            &world.topology,
            user,
            password,
            &loopback_users,
            from_loopback,
        );
        found.map(|user| user.name.to_string())
    };
    assert_eq!(attempt(b"guest", b"secret", true), Ok("guest".to_owned()));
    assert_eq!(
        attempt(b"guest", b"secret", false),
        Err(LoginError::NotLoopback)
    );
    assert_eq!(
        attempt(b"guest", b"wrong", true),
        Err(LoginError::WrongPassword)
    );
    assert_eq!(attempt(b"guest", b"", true), Err(LoginError::BlankPassword));
    assert_eq!(
        attempt(b"nobody", b"secret", true),
        Err(LoginError::UnknownUser)
    );
    assert_eq!(
        attempt(b"\xff", b"secret", true),
        Err(LoginError::UnknownUser)
    );
}
