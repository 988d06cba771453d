-- Time between two readings of the heavy sections of a server; NULL: the default, which is a setting.
ALTER TABLE servers ADD COLUMN heavy_interval_ms INTEGER;
