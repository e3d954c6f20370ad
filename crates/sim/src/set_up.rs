//! The beginning of a run: vaults, store and accounts are made, while all is well.

use std::{sync::Arc, time::Duration};

use cofferdam_crypto::{KeyId, rsa::RsaSize};
use cofferdam_store::{AccountKey, AccountName, BufferMode, Engine};
use cofferdam_vault::{KeyKind, Principal, VaultBudget};

use crate::{
    director::{CLOSES_WITHIN, Director},
    meter::Meter,
    site::{House, Seat},
    weather::base_of,
};

/// How many KEKs a crowd of accounts shares.
const KEKS_OF_CROWD: usize = 3;

/// An account to be made.
struct Plan {
    name: String,
    /// Whose vault, and which of its KEKs; `None` under the service's.
    kek: Option<(usize, KeyId)>,
    kind: KeyKind,
    buffer: BufferMode,
    is_of_crowd: bool,
}

impl Director {
    /// Makes the vaults, the store and the accounts.
    pub(crate) async fn set_up(&mut self) -> Result<(), String> {
        let store = (self.scenario.stores)(&self.disk, true).map_err(said)?;
        self.store = Some(store);
        self.site.service.vault.create_key(&self.site.service_kek, KeyKind::Aes256).map_err(said)?;
        // Each customer has a second vault, for further KEKs.
        let standby = if self.drawn.operations.is_some() { self.scenario.customers } else { 0 };
        for number in 0..self.scenario.customers + standby {
            let vault = (self.scenario.vaults)(self.dice.roll());
            let meter = match self.drawn.limit {
                Some(published) => Meter::draw(published, &mut self.dice),
                None => Meter::without_limit(),
            };
            let house = House::new(number + 1, vault, meter);
            let principal = format!("tenant-{number}");
            self.site.hub.state().vaults.insert(principal.clone(), house.number);
            self.site.tenants.push((Principal::new(principal), house));
        }
        let engine = self.first_engine().await?;
        let mut made = Vec::new();
        for plan in self.plans() {
            made.push(self.make(&engine, plan).await?);
        }
        self.site.seats = Arc::new(made);
        self.tell_of_accounts();
        drop(engine);
        self.nodes[0].crash(&self.site.hub);
        self.site.houses().for_each(|house| house.meter().set_open(false));
        self.site.clients = self.scenario.clients;
        self.site.operations = self.drawn.operations;
        (0..self.nodes.len()).for_each(|number| self.start(number));
        Ok(())
    }

    /// Tells the model of the accounts. From here on it is judged who asks which vault how often: an account is made
    /// without a turn.
    fn tell_of_accounts(&self) {
        let mut state = self.site.hub.state();
        let default = VaultBudget::default();
        let all = self.site.seats.len() as u32;
        state.budgets.set(0, all, default.budget(), default.limit());
        let budget = self.site.budget.unwrap_or_default();
        for (_, house) in &self.site.tenants {
            let accounts = self.site.seats.iter().filter(|seat| seat.vault == house.number).count();
            state.budgets.set(house.number, accounts as u32, budget.budget(), budget.limit());
        }
        state.segments.last(self.site.segment_time);
        for kek in self.site.seats.iter().filter_map(|seat| seat.kek.as_ref()) {
            state.versions.insert(base_of(kek).to_owned(), 1);
        }
    }

    async fn first_engine(&mut self) -> Result<Engine, String> {
        self.start(0);
        loop {
            if let Some(engine) = self.nodes[0].engine() {
                return Ok(engine);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            if self.site.hub.at() > CLOSES_WITHIN {
                return Err("the first node does not open".to_owned());
            }
        }
    }

    fn plans(&mut self) -> Vec<Plan> {
        let customers = self.scenario.customers;
        let mut plans = Vec::new();
        for number in 0..customers + self.scenario.services {
            let kek = (number < customers).then(|| (number, key_id(&format!("customer-{number}"), "kek")));
            let kind = self.kind();
            let (name, buffer) = (format!("account-{number}"), self.buffer(kind));
            plans.push(Plan { name, kek, kind, buffer, is_of_crowd: false });
        }
        let kinds: [KeyKind; KEKS_OF_CROWD] = std::array::from_fn(|_| self.kind());
        for number in 0..self.drawn.crowd {
            let of = number % KEKS_OF_CROWD;
            let kek = Some((0, key_id("customer-0", &format!("kek-{of}"))));
            let (name, kind, buffer) = (format!("crowd-{number}"), kinds[of], self.buffer(kinds[of]));
            plans.push(Plan { name, kek, kind, buffer, is_of_crowd: true });
        }
        plans
    }

    /// Of a KEK to be made.
    fn kind(&mut self) -> KeyKind {
        if self.dice.percent(self.drawn.rsa) { KeyKind::Rsa(RsaSize::Rsa2048) } else { KeyKind::Aes256 }
    }

    /// Of an account whose KEK is of this kind: only RSA keys can be wrapped to without their vault.
    fn buffer(&mut self, kind: KeyKind) -> BufferMode {
        if matches!(kind, KeyKind::Rsa(_)) && self.dice.percent(self.drawn.write_only) {
            BufferMode::WriteOnly
        } else {
            BufferMode::ServiceManaged
        }
    }

    async fn make(&self, engine: &Engine, plan: Plan) -> Result<Seat, String> {
        let name = AccountName::new(plan.name).map_err(said)?;
        let key = match &plan.kek {
            Some((tenant, kek)) => {
                let (principal, house) = &self.site.tenants[*tenant];
                house.vault.create_key(kek, plan.kind).map_err(said)?;
                AccountKey::Customer { principal: principal.clone(), kek: kek.clone(), buffer: plan.buffer }
            }
            None => AccountKey::Service,
        };
        let id = engine.create_account(&name, key).await.map_err(said)?.id();
        self.site.hub.note(format_args!("{name} is {id}"));
        let vault = plan.kek.as_ref().map_or(0, |(tenant, _)| self.site.tenants[*tenant].1.number);
        let kind = plan.kind;
        let writes_only = plan.kek.is_some() && plan.buffer == BufferMode::WriteOnly;
        let kek = plan.kek.map(|(_, kek)| kek);
        let public = match (&kek, plan.kind) {
            (Some(kek), KeyKind::Rsa(_)) => {
                let house = self.site.houses().find(|house| house.number == vault);
                let house = house.ok_or("no such vault")?;
                Some(house.vault.public_key(kek).await.map_err(said)?.key)
            }
            _ => None,
        };
        Ok(Seat { name, id, kek, vault, kind, public, writes_only, is_of_crowd: plan.is_of_crowd })
    }
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}

pub(crate) fn key_id(vault: &str, key: &str) -> KeyId {
    KeyId::new(format!("sim://{vault}/keys/{key}/v1")).unwrap_or_else(|_| unreachable!("a short id"))
}
