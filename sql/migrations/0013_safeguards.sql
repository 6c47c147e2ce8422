-- Safeguards around what a person does by hand: the operator's ranges and an unmasked look.
--
-- Ranges that the regulator's register brought are told from those made by hand (numbers ported in), so that its next edition replaces its
-- own and no others.

CREATE TYPE registry.range_source AS ENUM ('register', 'hand');

ALTER TABLE registry.numbering_range ADD COLUMN source registry.range_source NOT NULL DEFAULT 'hand';
COMMENT ON COLUMN registry.numbering_range.source IS 'register: an import of the regulator''s register wrote the row, and the next one replaces it. hand: SQL did, or a list of the operator''s own; a register leaves it as it is.';
-- What an import of the register has always noted: the operator's name and taxpayer number.
UPDATE registry.numbering_range SET source = 'register' WHERE note LIKE '%, ИНН %';
