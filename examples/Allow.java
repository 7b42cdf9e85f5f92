// Asks whether a message may be handled, by two limits at once: one of its user, one of the address that it came from.
//
//     java -cp postgresql.jar Allow.java USER ADDRESS
//
// A limit that somebody may want to change without a deployment is a row of llmquota.rate_limit: it rules over these
// numbers. The database writes the JSON: see Ask.java.
import java.sql.*;
import java.util.Map;

public class Allow {
    static final String ALLOW = """
        SELECT * FROM llmquota_allow_all(jsonb_build_array(
            jsonb_build_object('scope', 'messages of a user', 'subject', ?::text, 'amount', 3, 'per_ms', 3600000),
            jsonb_build_object('scope', 'messages of an address', 'subject', ?::text, 'amount', 100, 'per_ms', 3600000)))""";

    // prepareThreshold: see Ask.java.
    public static void main(String[] args) throws Exception {
        Map<String, String> env = System.getenv();
        String url = String.format("jdbc:postgresql://%s:%s/%s?prepareThreshold=0",
            env.get("PGHOST"), env.get("PGPORT"), env.get("PGDATABASE"));
        try (Connection db = DriverManager.getConnection(url, env.get("PGUSER"), env.get("PGPASSWORD"));
             PreparedStatement statement = db.prepareStatement(ALLOW)) {
            statement.setString(1, args[0]);
            statement.setString(2, args[1]);
            ResultSet answer = statement.executeQuery();
            answer.next();
            if (!answer.getBoolean("allowed")) { // 429, with Retry-After
                System.err.printf("%s: again in %d s%n", answer.getString("scope"),
                    (answer.getInt("retry_after_ms") + 999) / 1000);
                System.exit(1);
            }
            System.out.printf("go on, %d left%n", answer.getInt("remaining"));
        }
    }
}
