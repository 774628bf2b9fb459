//! How load gets from a node that has much to one that has little, over others if it must.

/// The shortest way from a node with at least two more than the last on it, the fullest first.
///
/// `may` tells whether one piece can go from a node to another. With no such way left no order of
/// single moves makes the loads more even.
pub(super) fn find(
    load: &[usize],
    takes_part: &[bool],
    may: impl Fn(usize, usize) -> bool,
) -> Option<Vec<usize>> {
    let mut order: Vec<usize> = (0..load.len()).filter(|node| takes_part[*node]).collect();
    order.sort_by_key(|node| (load[*node], *node));
    let least = load[*order.first()?];
    // What an earlier start could not reach the way from, a later and emptier one need not try.
    let mut seen = vec![false; load.len()];
    for start in order.iter().rev() {
        if load[*start] < least + 2 {
            return None;
        }
        if seen[*start] {
            continue;
        }
        let found = from(*start, load, &order, &mut seen, &may);
        if found.is_some() {
            return found;
        }
    }
    None
}

fn from(
    start: usize,
    load: &[usize],
    order: &[usize],
    seen: &mut [bool],
    may: &impl Fn(usize, usize) -> bool,
) -> Option<Vec<usize>> {
    let mut came_from = vec![None; load.len()];
    let mut queue = std::collections::VecDeque::from([start]);
    seen[start] = true;
    while let Some(at) = queue.pop_front() {
        for next in order {
            if seen[*next] || !may(at, *next) {
                continue;
            }
            seen[*next] = true;
            came_from[*next] = Some(at);
            if load[*next] + 2 <= load[start] {
                return Some(way(*next, &came_from));
            }
            queue.push_back(*next);
        }
    }
    None
}

fn way(end: usize, came_from: &[Option<usize>]) -> Vec<usize> {
    let mut nodes = vec![end];
    while let Some(before) = came_from[nodes[nodes.len() - 1]] {
        nodes.push(before);
    }
    nodes.reverse();
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(load: &[usize], edges: &[(usize, usize)], way: Option<&[usize]>) {
        let all = vec![true; load.len()];
        let found = find(load, &all, |from, to| edges.contains(&(from, to)));
        assert_eq!(found.as_deref(), way, "{load:?} {edges:?}");
    }

    #[test]
    fn the_fullest_gives_to_the_emptiest_that_it_reaches() {
        check(&[1, 1, 2], &[(2, 0)], None);
        check(&[3, 1, 0], &[(0, 1), (0, 2)], Some(&[0, 2]));
        check(&[3, 1, 0], &[(0, 1)], Some(&[0, 1]));
        check(&[3, 2, 1], &[(0, 1), (1, 2)], Some(&[0, 1, 2]));
        check(&[9, 3, 1], &[(1, 2)], Some(&[1, 2]));
        check(&[5, 4, 3], &[(2, 0), (1, 0)], None);
    }
}
