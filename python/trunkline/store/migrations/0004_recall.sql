-- Recall: which stored passages answer a text. The gateway and the control plane call the same function.

set local role trunkline_owner;

-- An OR of the query's stems: a question rarely uses all the words of its answer. Bounded, since a query may be a page long.
create function trunkline.recall_query(p_text text) returns tsquery
    language sql immutable
    set search_path = pg_catalog, pg_temp
as $$
    select replace(plainto_tsquery('english', left(p_text, 2000))::text, ' & ', ' | ')::tsquery
$$;

-- Best first, within `p_limit` passages and `p_token_budget` tokens; ties by age, so that the same state gives the same answer.
-- ts_rank without length normalisation: the best of Postgres' own rankings in our measurements.
create function trunkline.recall(p_tenant uuid, p_store uuid, p_query text, p_limit int, p_token_budget int,
                                 p_exclude_session uuid default null)
    returns table (passage_id uuid, session_id uuid, role text, content text, tokens int, created_at timestamptz, score real)
    language plpgsql stable security definer
    set search_path = trunkline, pg_temp
as $$
declare
    query tsquery := recall_query(p_query);
begin
    if numnode(query) = 0 then
        return;
    end if;
    return query
    select b.id, b.session_id, b.role, b.content, b.tokens, b.created_at, b.score
      from (select r.*, sum(r.tokens) over (order by r.score desc, r.id) as spent
              from (select p.id, p.session_id, p.role, p.content, p.tokens, p.created_at, ts_rank(p.terms, query) as score
                      from passages p
                     where p.tenant_id = p_tenant and p.store_id = p_store and p.terms @@ query
                       and (p_exclude_session is null or p.session_id is distinct from p_exclude_session)
                     order by score desc, p.id
                     limit p_limit) r) b
     where b.spent <= p_token_budget
     order by b.score desc, b.id;
end
$$;

revoke execute on function trunkline.recall_query(text), trunkline.recall(uuid, uuid, text, int, int, uuid) from public;
grant execute on function trunkline.recall(uuid, uuid, text, int, int, uuid) to trunkline_control;
