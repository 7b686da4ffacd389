-- Conditions, moves, messages and definitions of alerts, each step with a name of its own.

-- The kinds of channels are the job's to know: a new one needs no migration.
alter table ops.alert_channels
  drop constraint alert_channels_kind_check,
  drop constraint alert_channels_settings_to_is_a_list_of_texts,
  add constraint alert_channels_kind_is_a_plain_word check (kind ~ '^[a-z][a-z0-9_]{0,29}$'),
  add constraint alert_channels_settings_are_texts_or_lists_of_texts check (not settings @? '$.*[*].type() ? (@ != "string")');
comment on column ops.alert_channels.kind is 'How it is reached: a word that slo apply and the job that sends know; a delivery over another kind ends dead.';
comment on column ops.alert_channels.settings is 'What the kind needs besides: texts and lists of texts; of a further secret only the name of its environment variable.';
