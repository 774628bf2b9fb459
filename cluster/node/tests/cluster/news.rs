//! What nodes tell, as those hear it who watch one of them.

use tokio::sync::mpsc;
use warren_cluster::news::{Heard, Scope};
use warren_cluster::watch::Told;

use super::*;

impl Node {
    fn tell(&self, scope: Scope, text: &'static str) {
        self.news.tell(scope, Bytes::from_static(text.as_bytes()));
    }
}

/// The next thing that is told, and whose it is.
async fn next(told: &mut mpsc::Receiver<Told>) -> (u64, String) {
    let told = tokio::time::timeout(PATIENCE, told.recv()).await;
    let Told { node, heard } = told.expect("in time").expect("goes on");
    match heard {
        Heard::Item(text) => (node.0, String::from_utf8_lossy(&text).into_owned()),
        Heard::Missed(items) => panic!("missed {items}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_come_back_are_heard_again() {
    let (folders, [one, two, three]) = three("heard").await;
    drop(three);
    two.tell(Scope::Everywhere, "before");
    let mut told = one.cluster.watch_news().await;
    let mut another = two.cluster.watch_news().await;
    two.tell(Scope::Here, "two's own");
    two.tell(Scope::Everywhere, "two");
    assert_eq!(next(&mut told).await, (2, "two".to_owned()));
    one.tell(Scope::Here, "one's own");
    assert_eq!(next(&mut told).await, (1, "one's own".to_owned()));
    for own in ["two's own", "two"] {
        assert_eq!(next(&mut another).await, (2, own.to_owned()));
    }

    // What they tell before anybody can have asked them: of two, which was heard before, and of
    // three, which was away when the watch began.
    drop(two);
    let two = open(&folders[1], listener().await).await;
    two.tell(Scope::Here, "two's own again");
    two.tell(Scope::Everywhere, "two again");
    assert_eq!(next(&mut told).await, (2, "two again".to_owned()));
    let three = open(&folders[2], listener().await).await;
    three.tell(Scope::Everywhere, "three");
    three.tell(Scope::Everywhere, "three again");
    assert_eq!(next(&mut told).await, (3, "three".to_owned()));
    assert_eq!(next(&mut told).await, (3, "three again".to_owned()));
    two.tell(Scope::Everywhere, "two, later");
    assert_eq!(next(&mut told).await, (2, "two, later".to_owned()));

    one.cluster.stop().await;
    assert_eq!(told.recv().await, None);
}
