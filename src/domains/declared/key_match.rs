//! Check that keys of audiences and interests can meet.
//!
//! The check reads the file, not the checked rules: a rule that another mistake leaves out still
//! has its keys. So one mistake is one problem, and hides no other.

use async_graphql::{Pos, Positioned, parser::types::ConstDirective};

use super::{
    arguments,
    count_rule::LISTENERS,
    problem::Problems,
    sdl::{File, ROOTS},
    template::{SEPARATORS, Template},
};

/// Key template of the file.
struct Key<'a> {
    at: Pos,
    text: &'a str,
    /// Template; `None` if it is wrong, which is reported elsewhere.
    template: Option<Template>,
}

/// Reports keys that no viewer can listen to, and interests that nothing uses.
pub fn check(file: &File, problems: &mut Problems) {
    let interests = keys(&file.schema);
    let mut wanted = Vec::new();
    let mut has_all_audiences = true;
    for root in ROOTS.iter().filter_map(|root| file.get(root)) {
        for field in root.fields() {
            let directives = &field.node.directives;
            let has_audience =
                ["audience", LISTENERS].iter().any(|name| arguments::find(directives, name).is_some());
            has_all_audiences &= root.name.node == "Mutation" || has_audience;
            wanted.extend(keys(directives));
        }
    }
    for key in unmet(&wanted, &interests) {
        let text = format!("no viewer can listen to `{}`; correct it, or add an `@interest`", key.text);
        problems.add(key.at, text);
    }
    // A missing audience may be the one that an interest is for.
    for interest in unmet(&interests, &wanted).filter(|interest| has_all_audiences && interest.has_path()) {
        let text = format!("no audience or `@allow` can equal `{}`; correct it", interest.text);
        problems.add(interest.at, text);
    }
}

/// Returns the keys of directives. One whose name or argument is wrong may be meant for any key.
fn keys(directives: &[Positioned<ConstDirective>]) -> Vec<Key<'_>> {
    let mut keys = Vec::new();
    for directive in directives.iter().map(|directive| &directive.node) {
        let is_ours = ["interest", "audience", "allow", LISTENERS].contains(&directive.name.node.as_str());
        let mut texts: Vec<_> = ["key", "keys"]
            .into_iter()
            .flat_map(|name| {
                let at = arguments::place_of(directive, name);
                arguments::texts(directive, name).into_iter().map(move |text| (at, text))
            })
            .collect();
        if texts.is_empty() && is_ours && !arguments::flag(directive, "everyone") {
            texts.push((directive.name.pos, ""));
        }
        keys.extend(texts.into_iter().map(|(at, text)| {
            let template = Template::parse_key(text).ok().filter(|_| is_ours);
            Key { at, text, template }
        }));
    }
    keys
}

/// Returns the right keys that can equal none of the others.
fn unmet<'a>(keys: &'a [Key<'a>], others: &'a [Key<'a>]) -> impl Iterator<Item = &'a Key<'a>> {
    keys.iter().filter(|key| key.template.is_some() && !others.iter().any(|other| key.may_equal(other)))
}

impl Key<'_> {
    /// Returns whether the two keys can be equal. A wrong template is taken for what it begins
    /// with, since what it will be once it is right is not known.
    fn may_equal(&self, other: &Self) -> bool {
        match (&self.template, &other.template) {
            (Some(ours), Some(others)) => ours.may_equal(others),
            _ => {
                let (ours, others) = (self.beginning(), other.beginning());
                ours.is_empty() || others.is_empty() || ours == others
            }
        }
    }

    /// Returns the literal text before the first separator or path.
    fn beginning(&self) -> &str {
        self.text.split(SEPARATORS).next().and_then(|text| text.split('{').next()).unwrap_or_default()
    }

    fn has_path(&self) -> bool {
        self.template.as_ref().is_some_and(|template| template.placeholders().next().is_some())
    }
}
