//! Comparisons: arguments with an order, tested for each plan that an event is for.

use serde_json::Value as Json;

use super::{
    filter::{Filter, Op},
    json,
    payload::{Object, Value},
    root_arguments::RootArguments,
    types::TypeId,
};

/// Comparison of a field with the value of an argument.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Comparison {
    op: Op,
    /// Steps to the field, for each type of payload, sorted by type.
    steps: Vec<(TypeId, Box<[usize]>)>,
    bound: Bound,
}

/// Value of the argument.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Bound {
    /// Bits of a finite number, so that equal comparisons are found.
    Number(u64),
    Text(Box<str>),
}

/// Returns the comparisons of the arguments that were given.
#[must_use]
pub fn comparisons(filters: &[Filter], arguments: &RootArguments) -> Vec<Comparison> {
    let ordered = filters.iter().filter(|filter| filter.op != Op::Equals);
    let comparisons = ordered.filter_map(|filter| {
        let bound = match arguments.document().get(filter.argument.as_str())? {
            Json::Number(number) => Bound::Number(number.as_f64()?.to_bits()),
            Json::String(text) => Bound::Text(text.as_str().into()),
            _ => return None,
        };
        let mut steps: Vec<_> = filter.steps.iter().map(|(of, steps)| (*of, steps.clone())).collect();
        steps.sort_unstable();
        Some(Comparison { op: filter.op, steps, bound })
    });
    comparisons.collect()
}

impl Comparison {
    /// Returns the memory that the comparison takes, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let steps =
            |(_, steps): &(TypeId, Box<[usize]>)| size_of::<(TypeId, Box<[usize]>)>() + size_of_val(&**steps);
        let bound = if let Bound::Text(text) = &self.bound { text.len() } else { 0 };
        size_of::<Self>() + bound + self.steps.iter().map(steps).sum::<usize>()
    }

    /// Returns whether a value of the field compares as the argument wants. Null never does.
    #[must_use]
    pub fn holds(&self, data: &Object) -> bool {
        let steps = self.steps.iter().find(|(of, _)| *of == data.of).map(|(_, steps)| &**steps);
        steps.is_some_and(|steps| self.object(data, steps))
    }

    fn object(&self, object: &Object, steps: &[usize]) -> bool {
        let [step, rest @ ..] = steps else { return false };
        object.fields.get(*step).is_some_and(|value| self.value(value, rest))
    }

    fn value(&self, value: &Value, steps: &[usize]) -> bool {
        match value {
            Value::Null => false,
            Value::List(items) => items.iter().any(|item| self.value(item, steps)),
            Value::Object(object) => self.object(object, steps),
            Value::Leaf(leaf) => self.leaf(leaf),
        }
    }

    fn leaf(&self, leaf: &str) -> bool {
        let text = leaf.starts_with('"').then(|| json::unquote(leaf)).flatten();
        let ordering = match (&self.bound, text) {
            (Bound::Text(bound), Some(text)) => Some((*text).cmp(&**bound)),
            (Bound::Number(bits), None) => {
                leaf.parse::<f64>().ok().and_then(|number| number.partial_cmp(&f64::from_bits(*bits)))
            }
            _ => None,
        };
        ordering.is_some_and(|ordering| match self.op {
            Op::Equals => ordering.is_eq(),
            Op::Above => ordering.is_gt(),
            Op::AtLeast => ordering.is_ge(),
            Op::Below => ordering.is_lt(),
            Op::AtMost => ordering.is_le(),
        })
    }
}
