//! Picks one of several offers for each of many things, so that all together cost little and lose little: the
//! multiple-choice knapsack, solved by dynamic programming over rounded costs.

/// One way to do one thing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Offer {
    /// What it takes, such as bits or seconds.
    pub cost: f64,
    /// What it spoils. Losses add up.
    pub loss: f64,
}

/// An offer for each thing.
#[derive(Clone, Debug, PartialEq)]
pub struct Pick {
    /// The index of the offer of each thing.
    pub offers: Vec<usize>,
    /// Their cost.
    pub cost: f64,
    /// Their loss.
    pub loss: f64,
}

/// Costs are counted in this many steps up to that of the dearest offers together. Each is rounded up: no pick costs more
/// than it says, and the best of all picks costs at most a step for each thing less than the one that is found.
const STEPS: usize = 1 << 14;

/// The picks that no other beats in both cost and loss, the cheapest first.
pub fn frontier(things: &[Vec<Offer>]) -> Vec<Pick> {
    let dearest = |offers: &Vec<Offer>| offers.iter().map(|offer| offer.cost).fold(0.0, f64::max);
    let step = (things.iter().map(dearest).sum::<f64>() / STEPS as f64).max(f64::MIN_POSITIVE);
    // `least[c]`: the least loss of the things so far at a cost of at most c steps
    let limit = STEPS + things.len();
    let mut least = vec![0.0; limit + 1];
    let mut picked: Vec<Vec<u8>> = Vec::with_capacity(things.len());
    for offers in things {
        let mut next = vec![f64::INFINITY; limit + 1];
        let mut picks = vec![0; limit + 1];
        for (index, offer) in offers.iter().enumerate().take(usize::from(u8::MAX)) {
            let steps = (offer.cost / step).ceil() as usize;
            for at in steps..=limit {
                let loss = least[at - steps] + offer.loss;
                if loss < next[at] {
                    (next[at], picks[at]) = (loss, index as u8);
                }
            }
        }
        least = next;
        picked.push(picks);
    }
    let mut found: Vec<Pick> = Vec::new();
    for (at, loss) in least.into_iter().enumerate() {
        if loss.is_finite() && found.last().is_none_or(|last| loss < last.loss) {
            found.push(trace(things, &picked, step, at));
        }
    }
    found
}

/// The pick behind a cost of at most so many steps.
fn trace(things: &[Vec<Offer>], picked: &[Vec<u8>], step: f64, mut at: usize) -> Pick {
    let mut pick = Pick { offers: vec![0; things.len()], cost: 0.0, loss: 0.0 };
    for (index, (offers, picks)) in things.iter().zip(picked).enumerate().rev() {
        let offer = offers[usize::from(picks[at])];
        pick.offers[index] = usize::from(picks[at]);
        at -= (offer.cost / step).ceil() as usize;
        (pick.cost, pick.loss) = (pick.cost + offer.cost, pick.loss + offer.loss);
    }
    pick
}

/// The pick of the least loss that costs no more than `budget`.
pub fn within_cost(frontier: &[Pick], budget: f64) -> Option<&Pick> {
    frontier.iter().rev().find(|pick| pick.cost <= budget)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn offers(pairs: &[(f64, f64)]) -> Vec<Offer> {
        pairs.iter().map(|&(cost, loss)| Offer { cost, loss }).collect()
    }

    #[test]
    fn what_matters_most_keeps_the_dear_offer() {
        let things = [offers(&[(16.0, 0.0), (8.0, 0.1), (4.0, 0.2)]), offers(&[(16.0, 0.0), (8.0, 1.0), (4.0, 9.0)])];
        let picks = frontier(&things);
        assert_eq!(within_cost(&picks, 24.1).map(|pick| pick.offers.clone()), Some(vec![1, 0]));
        assert_eq!(within_cost(&picks, 12.1).map(|pick| pick.offers.clone()), Some(vec![2, 1]));
        assert_eq!(within_cost(&picks, 1.0), None);
        assert!(picks.windows(2).all(|pair| pair[0].cost <= pair[1].cost && pair[0].loss > pair[1].loss));
    }

    proptest! {
        /// No pick of all there are is cheaper by more than the rounding, and loses less.
        #[test]
        fn nothing_beats_the_frontier(things in prop::collection::vec(prop::collection::vec((0.1f64..9.0, 0.0f64..1.0), 1..4), 1..5), budget in 1.0f64..30.0) {
            let things: Vec<Vec<Offer>> = things.iter().map(|pairs| offers(pairs)).collect();
            let most: f64 = things.iter().map(|offers| offers.iter().map(|offer| offer.cost).fold(0.0, f64::max)).sum();
            let found = frontier(&things);
            let count: usize = things.iter().map(Vec::len).product();
            for number in 0..count {
                let (mut left, mut cost, mut loss) = (number, 0.0, 0.0);
                for offers in &things {
                    let offer = offers[left % offers.len()];
                    left /= offers.len();
                    (cost, loss) = (cost + offer.cost, loss + offer.loss);
                }
                let slack = things.len() as f64 * most / STEPS as f64;
                if cost + slack <= budget {
                    let best = within_cost(&found, budget).expect("there is a pick");
                    prop_assert!(best.loss <= loss + 1e-12, "{best:?} against {cost} and {loss}");
                }
            }
        }
    }
}
