-- Anonymisation rules as they ship.

insert into ops.anonymisation_rules (rule_name, path, matching, action)
values
  ('agent-ids', '$.agent_id', null, 'hmac'),
  ('e-mail-addresses', '$.**', '[^[:space:]@<>()"'',;:]+@[^[:space:]@<>()"'',;:]+', 'generalise'),
  ('files', '$.**.file', null, 'generalise'),
  ('file-lists', '$.**.files', null, 'generalise'),
  ('file-names', '$.**.filename', null, 'generalise'),
  ('file-paths', '$.**.file_path', null, 'generalise'),
  ('paths', '$.**.path', null, 'generalise'),
  ('path-lists', '$.**.paths', null, 'generalise'),
  ('override-reasons', '$.**.override_reason', null, 'remove'),
  ('reasons', '$.**.reason', null, 'remove');
