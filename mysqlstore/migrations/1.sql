CREATE TABLE IF NOT EXISTS `{prefix}records` (
  hash        BINARY(32)        NOT NULL,
  format      TINYINT UNSIGNED  NOT NULL,
  kind        TINYINT UNSIGNED  NOT NULL,
  late        TINYINT UNSIGNED  NOT NULL DEFAULT 0,
  dropped     TINYINT UNSIGNED  NOT NULL DEFAULT 0,
  attempt     INT UNSIGNED      NOT NULL,
  token       BIGINT            NOT NULL,
  since       BIGINT            NOT NULL,
  due         BIGINT            NOT NULL,
  tombstone   BIGINT            NOT NULL,
  answered    BIGINT            NULL,
  nonce       VARBINARY(16)     NULL,
  ended       VARBINARY(16)     NULL,
  fingerprint VARBINARY(33)     NULL,
  scope       VARBINARY(4096)   NULL,
  id          VARBINARY(4096)   NULL,
  note        BLOB              NULL,
  result_meta LONGBLOB          NULL,
  result_body LONGBLOB          NULL,
  PRIMARY KEY (hash),
  KEY due (kind, due)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET binary;

CREATE TABLE IF NOT EXISTS `{prefix}attempts` (
  hash     BINARY(32)    NOT NULL,
  attempts INT UNSIGNED  NOT NULL,
  due      BIGINT        NOT NULL,
  PRIMARY KEY (hash),
  KEY due (due)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET binary;
