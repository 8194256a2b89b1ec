//! Chooses one of several offers for each item to minimize the total loss at a given cost: the multiple-choice knapsack
//! problem, solved by dynamic programming over rounded costs.

/// One option for an item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Offer {
    /// Its cost, such as bits or seconds.
    pub cost: f64,
    /// Its loss. Losses are additive.
    pub loss: f64,
}

/// An offer for each item.
#[derive(Clone, Debug, PartialEq)]
pub struct Pick {
    /// The index of the offer of each item.
    pub offers: Vec<usize>,
    /// Their cost.
    pub cost: f64,
    /// Their loss.
    pub loss: f64,
}

/// The number of cost steps up to the sum of the most expensive offers. Costs are rounded up: no pick costs more than
/// it says, and the optimum is cheaper than the result by at most one step per item.
const STEPS: usize = 1 << 14;

/// The Pareto front of picks in cost and loss, the cheapest first.
pub fn frontier(things: &[Vec<Offer>]) -> Vec<Pick> {
    let dearest = |offers: &Vec<Offer>| offers.iter().map(|offer| offer.cost).fold(0.0, f64::max);
    let step = (things.iter().map(dearest).sum::<f64>() / STEPS as f64).max(f64::MIN_POSITIVE);
    // `least[c]`: the least loss of the items so far at a cost of at most c steps
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

/// The pick for a cost of at most this many steps.
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

/// The pick with the least loss that costs at most `budget`.
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
        /// No pick has less loss and is cheaper by more than the rounding.
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
