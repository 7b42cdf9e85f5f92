// What JDBC makes of the values that go into and come out of the calls. ORG is one that gets no second lease.
import java.sql.*;
import java.time.Duration;
import java.time.OffsetDateTime;
import java.util.Map;
import java.util.UUID;

public class Values {
    static final String PICK = "SELECT * FROM llmquota_pick(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?::uuid)";

    static Connection db;

    static void check(String promise, boolean kept) {
        System.out.println((kept ? "ok - " : "not ok - ") + promise);
    }

    static PreparedStatement with(String sql, Object... values) throws SQLException {
        PreparedStatement statement = db.prepareStatement(sql);
        for (int i = 0; i < values.length; i++)
            statement.setObject(i + 1, values[i]);
        return statement;
    }

    static ResultSet one(PreparedStatement statement) throws SQLException {
        ResultSet row = statement.executeQuery();
        row.next();
        return row;
    }

    static ResultSet checkGrant(String org) throws SQLException {
        Array exclude = db.createArrayOf("text", new String[] {"key-2", "nobody"});
        ResultSet pick = one(with(PICK, "chat", org, 1200L, 500L, "high", exclude, "s-1", "r-1", 60000,
            "a prompt", null));
        OffsetDateTime granted = pick.getObject("granted_at", OffsetDateTime.class);
        OffsetDateTime expires = pick.getObject("expires_at", OffsetDateTime.class);

        check("a text is a String", pick.getString("status").equals("granted")
            && pick.getString("key").equals("key-1"));
        check("a uuid is a UUID", pick.getObject("lease") instanceof UUID);
        check("an integer is an Integer", pick.getObject("attempt").equals(1)
            && pick.getInt("max_output_tokens") == 500);
        check("a time is an OffsetDateTime", Duration.between(granted, expires).equals(Duration.ofMinutes(1)));
        check("no refusal is null", pick.getObject("refusal") == null && pick.getObject("retry_after_ms") == null);
        return pick;
    }

    static void checkRefusal(String org) throws SQLException {
        PreparedStatement pick = with(PICK, "chat", org);
        int[] types = {Types.BIGINT, Types.BIGINT, Types.VARCHAR, Types.ARRAY, Types.VARCHAR, Types.VARCHAR,
            Types.INTEGER, Types.VARCHAR, Types.OTHER};
        for (int i = 0; i < types.length; i++)
            pick.setNull(i + 3, types[i]);
        ResultSet refused = one(pick);
        check("a refusal is JSON in a String", refused.getString("status").equals("rate_limited")
            && refused.getString("refusal").contains("\"amount\": 1,"));
        check("a wait is an Integer", refused.getObject("retry_after_ms") instanceof Integer
            && refused.getObject("lease") == null);
    }

    static void checkSettling(UUID lease, OffsetDateTime expires) throws SQLException {
        ResultSet renewed = one(with("SELECT llmquota_renew(?, ?)", lease, 600000));
        check("a renewed lease expires later", renewed.getObject(1, OffsetDateTime.class).isAfter(expires));
        PreparedStatement record = with("SELECT * FROM llmquota_record(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            lease, 1180L, 312L, 1000L, 0L);
        record.setNull(6, Types.BIGINT);
        record.setObject(11, "{\"output_tokens\": 312, \"output_tokens_details\": {\"reasoning_tokens\": 12}}",
            Types.OTHER);
        record.setInt(7, 200);
        record.setNull(8, Types.VARCHAR);
        record.setObject(12, "{\"retry-after\": \"1\"}", Types.OTHER);
        record.setInt(9, 700);
        record.setObject(10, "{\"feature\": [\"a\", 1]}", Types.OTHER);
        ResultSet recorded = one(record);
        check("a record is settled", recorded.getString("status").equals("settled")
            && recorded.getString("usage_source").equals("reported"));
        ResultSet released = one(with("SELECT llmquota_release(?)", lease));
        check("a release is a String", released.getString(1).equals("already_settled"));
    }

    static void checkBigint(String org) throws SQLException {
        long huge = 1L << 62;
        try {
            one(with("SELECT * FROM llmquota_pick('chat', ?, input_tokens => ?)", org, huge));
            check("a bigint arrives as one", false);
        } catch (SQLException error) {
            check("a bigint arrives as one", error.getSQLState().equals("22003")
                && error.getMessage().contains(Long.toString(huge)));
        }
    }

    public static void main(String[] args) throws SQLException {
        Map<String, String> env = System.getenv();
        String url = String.format("jdbc:postgresql://%s:%s/%s?prepareThreshold=0",
            env.get("PGHOST"), env.get("PGPORT"), env.get("PGDATABASE"));
        db = DriverManager.getConnection(url, env.get("PGUSER"), env.get("PGPASSWORD"));
        ResultSet pick = checkGrant(args[0]);
        checkRefusal(args[0]);
        checkSettling(pick.getObject("lease", UUID.class), pick.getObject("expires_at", OffsetDateTime.class));
        checkBigint(args[0]);
        db.close();
    }
}
