//! [`Pool`]: bytes of the pod for one purpose, with an account for each user.
//!
//! Bytes are permits of two semaphores: the account's and the pool's. An account exists only while
//! something is charged to it. No account may take more than its share, whatever is free.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use crate::lock::lock;

/// Most charges of one account that wait for room. A further one is refused at once: each may hold
/// a socket's place.
const MAX_WAITING: usize = 64;

/// How long a user counts as refused. Meanwhile nothing that costs work is tried for it.
const REFUSED_FOR: Duration = Duration::from_secs(1);

/// Pool of bytes, in which each account has a largest share. Clones share the same pool.
#[derive(Clone)]
pub struct Pool(Arc<Shared>);

struct Shared {
    name: &'static str,
    limit: usize,
    share: usize,
    /// Most charges of one account that wait for room.
    waiting: usize,
    free: Arc<Semaphore>,
    accounts: Mutex<HashMap<Arc<str>, Weak<Account>>>,
}

/// What has no room for a charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exhausted {
    /// The user's share. The others have room.
    Share,
    /// The pool of the pod.
    Pool,
}

impl Exhausted {
    /// Returns the user if it is the user's share, else `None`.
    #[must_use]
    pub fn of(self, user: &str) -> Option<&str> {
        (self == Self::Share).then_some(user)
    }
}

/// Account of one user, while something is charged to it.
struct Account {
    user: Arc<str>,
    free: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// Last charge that had no room: its time and its bytes.
    refused: Mutex<Option<(Instant, usize)>>,
    pool: Arc<Shared>,
}

impl Drop for Account {
    fn drop(&mut self) {
        let mut accounts = lock(&self.pool.accounts);
        // A newer account of the same user stays.
        if accounts.get(&self.user).is_some_and(|account| account.strong_count() == 0) {
            accounts.remove(&self.user);
        }
    }
}

impl Pool {
    /// Creates a pool of `limit` bytes. One account may take `share` of them.
    #[must_use]
    pub fn new(name: &'static str, limit: usize, share: usize) -> Self {
        Self::with_waiting(name, limit, share, MAX_WAITING)
    }

    /// Creates a pool in which each account has one place, and any number may wait for it.
    #[must_use]
    pub fn of_turns(name: &'static str) -> Self {
        Self::with_waiting(name, Semaphore::MAX_PERMITS, 1, Semaphore::MAX_PERMITS)
    }

    fn with_waiting(name: &'static str, limit: usize, share: usize, waiting: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        let (free, accounts) = (Arc::new(Semaphore::new(limit)), Mutex::default());
        Self(Arc::new(Shared { name, limit, share: share.min(limit), waiting, free, accounts }))
    }

    /// Returns the name in metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.0.name
    }

    /// Returns the bytes that all accounts may take together.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// Returns the bytes that one account may take.
    #[must_use]
    pub fn share(&self) -> usize {
        self.0.share
    }

    /// Returns the bytes that are charged now.
    #[must_use]
    pub fn used(&self) -> usize {
        self.0.limit - self.0.free.available_permits()
    }

    /// Returns the bytes that are charged to this user now.
    #[cfg(test)]
    pub(crate) fn used_by(&self, user: &str) -> usize {
        let account = lock(&self.0.accounts).get(user).and_then(Weak::upgrade);
        account.map_or(0, |account| self.0.share - account.free.available_permits())
    }

    /// Returns the number of accounts with a charge.
    #[cfg(test)]
    pub(crate) fn accounts(&self) -> usize {
        lock(&self.0.accounts).len()
    }

    /// Charges the bytes to the user's account, and waits for room for at most `patience`. Returns
    /// `None` if there was none, and at once if too many wait.
    pub async fn charge(&self, user: &Arc<str>, bytes: usize, patience: Duration) -> Option<Charge> {
        if let Some(charge) = self.try_charge(user, bytes) {
            return Some(charge);
        }
        let account = self.account(user);
        let _waiting = account.waiting.clone().try_acquire_owned().ok()?;
        let (of_account, of_pool) = (account.free.clone(), self.0.free.clone());
        let bytes = u32::try_from(bytes).ok()?;
        let permits = async {
            let of_account = of_account.acquire_many_owned(bytes).await.ok()?;
            Some((of_account, of_pool.acquire_many_owned(bytes).await.ok()?))
        };
        let (of_account, of_pool) = timeout(patience, permits).await.ok()??;
        Some(Charge { of_account, of_pool, account })
    }

    /// Charges the bytes to the user's account. Returns `None` if there is no room now.
    #[must_use]
    pub fn try_charge(&self, user: &Arc<str>, bytes: usize) -> Option<Charge> {
        self.enter(user, bytes).ok()
    }

    /// Charges bytes that several connections share once: to this user's account, or to none if the
    /// connections are of several users. Returns `None` if there is no room now.
    #[must_use]
    pub fn try_charge_shared(&self, user: Option<&Arc<str>>, bytes: usize) -> Option<SharedCharge> {
        if let Some(user) = user {
            return Some(SharedCharge::OfUser { _charge: self.try_charge(user, bytes)? });
        }
        let of_pool = self.0.free.clone().try_acquire_many_owned(u32::try_from(bytes).ok()?);
        Some(SharedCharge::OfUsers { _of_pool: of_pool.ok()? })
    }

    /// Charges the bytes to the user's account, as [`Self::try_charge`] does.
    ///
    /// # Errors
    /// What has no room now.
    pub fn enter(&self, user: &Arc<str>, bytes: usize) -> Result<Charge, Exhausted> {
        let account = self.account(user);
        let bytes = u32::try_from(bytes).map_err(|_| Exhausted::Share)?;
        let of_account = account.free.clone().try_acquire_many_owned(bytes);
        let of_account = of_account.map_err(|_| Exhausted::Share)?;
        let of_pool = self.0.free.clone().try_acquire_many_owned(bytes);
        let of_pool = of_pool.map_err(|_| Exhausted::Pool)?;
        Ok(Charge { of_account, of_pool, account })
    }

    /// Returns whether the user's account has room for these bytes now. Charges nothing.
    #[must_use]
    pub fn has_room(&self, user: &str, bytes: usize) -> bool {
        let account = lock(&self.0.accounts).get(user).and_then(Weak::upgrade);
        let of_account = account.map_or(self.0.share, |account| account.free.available_permits());
        bytes <= of_account.min(self.0.free.available_permits())
    }

    /// Notes that the user's share had no room for these bytes.
    pub fn note_refusal(&self, user: &Arc<str>, bytes: usize) {
        *lock(&self.account(user).refused) = Some((Instant::now(), bytes));
    }

    /// Returns whether the user's share had no room within the last second, and has none now.
    #[must_use]
    pub fn is_refused(&self, user: &str) -> bool {
        let account = lock(&self.0.accounts).get(user).and_then(Weak::upgrade);
        account.is_some_and(|account| {
            let refused = *lock(&account.refused);
            refused.is_some_and(|(at, bytes)| {
                at.elapsed() < REFUSED_FOR && account.free.available_permits() < bytes
            })
        })
    }

    fn account(&self, user: &Arc<str>) -> Arc<Account> {
        let mut accounts = lock(&self.0.accounts);
        if let Some(account) = accounts.get(user).and_then(Weak::upgrade) {
            return account;
        }
        let free = Arc::new(Semaphore::new(self.0.share));
        let waiting = Arc::new(Semaphore::new(self.0.waiting));
        let (user, refused, pool) = (user.clone(), Mutex::default(), self.0.clone());
        let account = Arc::new(Account { user: user.clone(), free, waiting, refused, pool });
        accounts.insert(user, Arc::downgrade(&account));
        account
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("name", &self.0.name)
            .field("limit", &self.0.limit)
            .finish_non_exhaustive()
    }
}

/// Bytes that several connections share. Dropping it releases them.
#[derive(Debug)]
pub enum SharedCharge {
    /// All connections are of one user, who is charged.
    OfUser {
        /// Charge of the user.
        _charge: Charge,
    },
    /// The connections are of several users, so only the pool is charged.
    OfUsers {
        /// Bytes of the pool.
        _of_pool: OwnedSemaphorePermit,
    },
}

/// Bytes that are charged to an account and its pool. Dropping the charge releases them.
pub struct Charge {
    of_account: OwnedSemaphorePermit,
    of_pool: OwnedSemaphorePermit,
    account: Arc<Account>,
}

impl Charge {
    /// Returns the bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.of_pool.num_permits()
    }

    /// Changes the charge to this many bytes. Returns `false`, and changes nothing, if there is no
    /// room for more now.
    pub fn resize(&mut self, bytes: usize) -> bool {
        let charged = self.bytes();
        if bytes > charged {
            let pool = Pool(self.account.pool.clone());
            let Some(more) = pool.try_charge(&self.account.user, bytes - charged) else { return false };
            self.of_account.merge(more.of_account);
            self.of_pool.merge(more.of_pool);
        } else {
            drop(self.of_account.split(charged - bytes));
            drop(self.of_pool.split(charged - bytes));
        }
        true
    }
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Charge").field(&self.bytes()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const SHARE: usize = 40;
    const LIMIT: usize = 100;

    fn pool() -> Pool {
        Pool::new("test", LIMIT, SHARE)
    }

    #[tokio::test(start_paused = true)]
    async fn account_waits_for_its_own_share() {
        let (pool, [a, b]) = (pool(), ["a".into(), "b".into()]);
        let held = pool.try_charge(&a, 30).unwrap();
        let wait = Duration::from_secs(5);
        assert!(pool.charge(&a, 20, wait).await.is_none(), "the pool has room, the account has not");
        assert!(pool.charge(&b, 20, wait).await.is_some());
        let freed = async {
            tokio::time::sleep(Duration::from_secs(4)).await;
            drop(held);
        };
        assert!(tokio::join!(pool.charge(&a, 20, wait), freed).0.is_some());
        assert_eq!(pool.used(), 0);
        assert!(lock(&pool.0.accounts).is_empty(), "an unused account leaves nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn refused_user_is_known_for_a_second() {
        let (pool, user) = (pool(), "a".into());
        let held = pool.try_charge(&user, SHARE).unwrap();
        assert!(!pool.is_refused(&user));
        pool.note_refusal(&user, 10);
        assert!(pool.is_refused(&user) && !pool.is_refused("b"));
        tokio::time::advance(REFUSED_FOR).await;
        assert!(!pool.is_refused(&user));
        pool.note_refusal(&user, 10);
        drop(held);
        assert!(!pool.is_refused(&user), "there is room again");
        assert!(lock(&pool.0.accounts).is_empty());
    }

    /// A step: a user charges bytes, or changes or drops a charge that exists.
    #[derive(Clone, Debug)]
    enum Step {
        Charge(usize, usize),
        Resize(usize, usize),
        Drop(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let bytes = 0..SHARE + 5;
        prop_oneof![
            (0..4_usize, bytes.clone()).prop_map(|(user, bytes)| Step::Charge(user, bytes)),
            (any::<usize>(), bytes).prop_map(|(at, bytes)| Step::Resize(at, bytes)),
            any::<usize>().prop_map(Step::Drop),
        ]
    }

    proptest! {
        #[test]
        fn pool_keeps_bounds_and_returns_to_zero(steps in vec(step(), 0..60)) {
            let pool = pool();
            let users: [Arc<str>; 4] = ["a", "b", "c", "d"].map(Into::into);
            let mut held: Vec<(usize, Charge)> = Vec::new();
            let sum = |held: &[(usize, Charge)], of: Option<usize>| -> usize {
                let all = held.iter().filter(|(user, _)| of.is_none_or(|of| of == *user));
                all.map(|(_, charge)| charge.bytes()).sum()
            };
            for step in steps {
                match step {
                    Step::Charge(user, bytes) => {
                        let has_room = sum(&held, Some(user)) + bytes <= SHARE && sum(&held, None) + bytes <= LIMIT;
                        let charge = pool.try_charge(&users[user], bytes);
                        prop_assert_eq!(charge.is_some(), has_room);
                        held.extend(charge.map(|charge| (user, charge)));
                    }
                    Step::Resize(at, bytes) if !held.is_empty() => {
                        let at = at % held.len();
                        held[at].1.resize(bytes);
                    }
                    Step::Drop(at) if !held.is_empty() => drop(held.swap_remove(at % held.len())),
                    Step::Resize(..) | Step::Drop(_) => {}
                }
                prop_assert_eq!(pool.used(), sum(&held, None));
                prop_assert!(pool.used() <= LIMIT);
                prop_assert!((0..4).all(|user| sum(&held, Some(user)) <= SHARE));
            }
            held.clear();
            prop_assert_eq!(pool.used(), 0);
            prop_assert!(lock(&pool.0.accounts).is_empty());
        }
    }
}
