-- What the outside may rely on. Names carry their units; times are UTC; what a device did not send is null.
create table positions (
    time            timestamptz      not null, -- of the fix
    device          text             not null,
    region          text             not null,
    lat             double precision not null, -- degrees, WGS 84
    lon             double precision not null,
    speed_mps       double precision,
    course_deg      double precision,
    accuracy_m      double precision,
    alt_m           double precision,
    battery_pct     double precision,
    ignition        boolean,
    odometer_m      double precision,
    alarm           text,
    attrs           jsonb,
    distance_m      double precision,          -- from the last reported position
    speed_calc_mps  double precision,
    odometer_calc_m double precision not null,
    fences          text[]           not null, -- ids of the fences that the device is in
    suppressed      bigint           not null, -- fixes filtered out since the last report
    late            boolean          not null,
    received        timestamptz      not null,
    event_id        text             not null,
    shard           text             not null,
    "offset"        bigint           not null,
    unique (device, time, event_id)
);
create index positions_time on positions (time desc);

create table alerts (
    time          timestamptz not null, -- of the fix that decided it
    device        text        not null,
    region        text        not null,
    type          text        not null,
    fence_id      text,
    fence_name    text,
    fence_rev     bigint,
    lat           double precision,
    lon           double precision,
    previous_time timestamptz,
    previous_lat  double precision,
    previous_lon  double precision,
    dwell_ms      bigint,
    limit_mps     double precision,
    value_mps     double precision,
    reason        text,
    received      timestamptz not null,
    event_id      text        not null,
    shard         text        not null,
    "offset"      bigint      not null,
    unique (device, time, event_id)
);
create index alerts_time on alerts (time desc);
create index alerts_type on alerts (type, time desc);
create index alerts_fence on alerts (fence_id, time desc) where fence_id is not null;

-- By sink and shard: the first offset that is not here. Written in the transaction of its rows.
create table meridian_cursors (
    sink        text        not null,
    shard       text        not null,
    next_offset bigint      not null,
    updated     timestamptz not null default now(),
    primary key (sink, shard)
);

-- Events that cannot be rows here, and why. `event` is the event's JSON, as bytes because it may hold what text cannot.
create table meridian_dead_letters (
    sink     text        not null,
    shard    text        not null,
    "offset" bigint      not null,
    reason   text        not null,
    event    bytea       not null,
    at       timestamptz not null default now(),
    primary key (sink, shard, "offset")
);
